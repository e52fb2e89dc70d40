"""The same model outside JAX: names and layout of its weights, a PyTorch reference, and the check that both compute the same.

Nothing in the core imports this room. `layout`, `weights`, `reference`, `case`, `run_torch` and `compare` work where JAX
is not installed; `run_jax` and `convert` work where PyTorch is not.
"""
