"""What the tests of the evaluations share: a tiny model, and lanes of random documents."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.config import Config
from rmat_jax.model import RMAT
from tests.evals import tiny

LANES, BATCHES = 3, 4


@pytest.fixture(scope="session")
def config():
    model = dataclasses.replace(tiny.MODEL, vocab_size=11, chunk_len=8)
    return Config(model=model, batch_size=LANES, chunks_per_step=2)


@pytest.fixture(scope="session")
def params(config):
    params = jax.jit(RMAT(config.model).init)(jax.random.key(1), jnp.zeros((1, 8), jnp.int32))[
        "params"
    ]
    # Larger than they start, so that what a token costs depends on what was read.
    return jax.tree.map(lambda x: 3 * x, params)


@pytest.fixture(scope="session")
def lanes(config):
    """One long batch. Documents begin in mid-chunk, and go on across the borders of `batches`."""
    rng = np.random.default_rng(0)
    shape = (LANES, BATCHES * config.segment_len)
    tokens, targets = rng.integers(config.model.vocab_size, size=(2, *shape))
    targets[rng.random(shape) < 0.2] = -1
    documents, offsets = np.zeros(shape, int), np.zeros(shape, int)
    for lane, ends in enumerate([(21, 40, 64), (13, 64), (64,)]):
        start = 0
        for number, end in enumerate(ends):
            documents[lane, start:end], offsets[lane, start:end] = number, np.arange(end - start)
            start = end
    lanes = {"tokens": tokens, "targets": targets, "documents": documents, "offsets": offsets}
    return {name: column.astype(np.int32) for name, column in lanes.items()}


@pytest.fixture(scope="session")
def batches(lanes):
    """The same lanes in several batches."""
    pieces = {name: np.split(column, BATCHES, axis=1) for name, column in lanes.items()}
    return [dict(zip(pieces, values, strict=True)) for values in zip(*pieces.values(), strict=True)]


@pytest.fixture(scope="session")
def text_subject(tmp_path_factory):
    """A tiny model of bytes, untrained, of a run that has left nothing else behind."""
    return dataclasses.replace(
        tiny.subject(chunk_len=32), workdir=tmp_path_factory.mktemp("text_subject")
    )


@pytest.fixture(autouse=True)
def readable(drawn):
    """Every figure that a test of this folder saves is without fault."""
