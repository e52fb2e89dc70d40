"""Linen modules of the block, and the values they carry from chunk to chunk.

May import: config, errors, ops, types, flax, jax.
"""
