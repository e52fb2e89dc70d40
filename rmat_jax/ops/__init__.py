"""Pure functions from arrays to arrays. Nothing here knows a parameter.

May import: config, types, flax, jax, numpy.
"""
