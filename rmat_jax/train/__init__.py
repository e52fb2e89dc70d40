"""Training: the step, the mesh, the run.

May import: chips, config, data, digests, errors, files, flops, infer, machine, model, modules, ops,
progress, signals, types, etils, flax, jax, numpy, optax, orbax, tensorboardX.
"""
