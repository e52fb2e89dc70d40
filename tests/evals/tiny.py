"""A tiny model of bytes with random weights, for the evaluations that read text."""

import functools

import jax
import jax.numpy as jnp

from rmat_jax.config import Config, RMATConfig
from rmat_jax.evals.suite import Subject
from rmat_jax.model import RMAT

MODEL = dict(width=16, num_layers=2, num_heads=2, chunk_len=16, window_len=4, memory_slots=6, memory_writes=2)


@functools.cache
def subject(**changes) -> Subject:
    """Weights are larger than they start, so that what a token costs depends on what was read."""
    config = RMATConfig(**MODEL | changes)
    params = jax.jit(RMAT(config).init)(jax.random.key(1), jnp.zeros((1, 16), jnp.int32))["params"]
    return Subject(None, Config(model=config), jax.tree.map(lambda x: 2 * x, params), 0)
