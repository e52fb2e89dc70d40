"""The model outside JAX: names and layout of its weights, files and folders of weights, a PyTorch
reference, the check that both compute the same, and adapters for other libraries.

`run_jax`, `convert` and `layout` (and so files of weights) need JAX. `reference`, `training` and
`run_torch` need PyTorch. A dump can be replayed with only one of the two installed. `modeling_rmat`
and `configuration_rmat` also need transformers, and `harness` needs lm_eval.

May import: config, data, digests, errors, files, infer, model, modules, progress, sealed, train,
types, flax, jax, lm_eval, numpy, torch, transformers.
"""
