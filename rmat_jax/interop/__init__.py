"""The same model outside JAX: names and layout of its weights, a PyTorch reference, and the check
that both compute the same.

Nothing in the core imports this room. Only `run_jax` and `convert` need JAX; only `reference`,
`training` and `run_torch` need PyTorch. The rest works where just one of them is installed.
"""
