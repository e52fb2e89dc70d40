"""A tiny model of bytes with random weights, for the evaluations that read text."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import PAPER, Config, Local
from rmat_jax.evals.suite import Subject
from rmat_jax.model import RMAT

MODEL = dataclasses.replace(
    PAPER,
    width=16,
    mlp_width=64,
    num_layers=2,
    num_heads=2,
    chunk_len=16,
    local=Local(window=4, sliding=False),
    memory=dataclasses.replace(PAPER.memory, slots=6, writes=2),
)


@functools.cache
def subject(**changes) -> Subject:
    """Weights are larger than they start, so that what a token costs depends on what was read."""
    config, rng = dataclasses.replace(MODEL, **changes), np.random.default_rng(1)

    def draw(path, like):
        if path[-1].key == "scale":
            return np.ones(like.shape, np.float32)
        return rng.normal(0, 2 * like.shape[-1] ** -0.5, like.shape).astype(np.float32)

    # Their shapes alone: a compiled init takes longer than most tests.
    shapes = jax.eval_shape(RMAT(config).init, jax.random.key(0), jnp.zeros((1, 16), jnp.int32))[
        "params"
    ]
    return Subject(Path(), Config(model=config), jax.tree_util.tree_map_with_path(draw, shapes), 0)
