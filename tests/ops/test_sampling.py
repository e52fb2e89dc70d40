"""Sampling: temperature, top-k and top-p keep exactly the tokens that they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.ops.sampling import sample

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.3, 0.15])
ROWS = 2000


def frequencies(temperature=1.0, top_k=0, top_p=1.0):
    keys = jax.random.split(jax.random.key(0), ROWS)
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES, jnp.float32))[None], (ROWS, 1))
    drawn = sample(keys, logits, temperature, top_k, top_p)
    return np.bincount(np.asarray(drawn), minlength=5) / ROWS


def close(actual, weights):
    """Within five standard deviations of the frequency of ROWS draws; never where the weight is zero."""
    expected = weights / weights.sum()
    assert not actual[expected == 0].any()
    assert (np.abs(actual - expected) <= 5 * np.sqrt(expected * (1 - expected) / ROWS)).all()


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 2.0}, PROBABILITIES**0.5),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 0.4, 0, 0.3, 0]),
        ({"top_k": 99}, PROBABILITIES),
        ({"top_p": 0.0}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.41}, [0, 0.4, 0, 0.3, 0]),
        ({"top_p": 0.8}, [0, 0.4, 0, 0.3, 0.15]),
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0, 0]),
    ],
    ids=str,
)
def test_what_is_drawn(options, weights):
    close(frequencies(**options), np.asarray(weights))


def test_a_row_is_drawn_by_its_own_key():
    keys = jax.random.split(jax.random.key(1), 4)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 50)), jnp.float32)
    drawn = sample(keys, logits, 1.0, 0, 1.0)
    np.testing.assert_array_equal(sample(keys[::-1], logits[::-1], 1.0, 0, 1.0)[::-1], drawn)
    assert (sample(keys[2:3], logits[2:3], 1.0, 0, 1.0) == drawn[2]).all()
