"""The same model outside JAX: names and layout of its weights, files and folders of them, a PyTorch
reference, the check that both compute the same, and programs of others that use a model.

JAX is needed by `run_jax`, `convert` and `layout` (so by a file of weights), PyTorch by
`reference`, `training` and `run_torch`. A dump is replayed where just one of them is installed.
`modeling_rmat` and `configuration_rmat` also need transformers, and `harness` needs lm_eval.

May import: config, data, digests, errors, files, infer, model, modules, progress, sealed, train,
types, flax, jax, lm_eval, numpy, torch, transformers.
"""
