"""The same model outside JAX: names and layout of its weights, a PyTorch reference, and the check
that both compute the same.

JAX is needed by `run_jax`, `convert` and `layout` (so by a file of weights), PyTorch by
`reference`, `training` and `run_torch`. A dump is replayed where just one of them is installed.

May import: config, data, errors, files, infer, model, modules, progress, sealed, train, types,
flax, jax, numpy, torch.
"""
