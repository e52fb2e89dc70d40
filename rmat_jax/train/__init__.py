"""Training: the step, the mesh, the run.

May import: config, data, digests, errors, files, flops, infer, model, modules, ops, progress,
signals, types, etils, flax, jax, numpy, optax, orbax, tensorboardX.
"""
