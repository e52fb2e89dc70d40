"""Sampling follows the distribution that temperature, top-k and top-p leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.ops.sampling import sample

PROBABILITIES = np.array([0.05, 0.4, 0.3, 0.2, 0.05])
DRAWS = 4000


def frequencies(temperature=1.0, top_k=0, top_p=1.0):
    logits = jnp.broadcast_to(jnp.log(jnp.array(PROBABILITIES, jnp.float32)), (DRAWS, 5))
    drawn = sample(jax.random.split(jax.random.key(0), DRAWS), logits, temperature, top_k, top_p)
    return np.bincount(drawn, minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2),
        ({"top_k": 2}, [0, 0.4, 0.3, 0, 0]),
        ({"top_p": 0.65}, [0, 0.4, 0.3, 0, 0]),
        ({"top_p": 0.75}, [0, 0.4, 0.3, 0.2, 0]),
        ({"top_p": 1e-6}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.5}, [0, 1, 0, 0, 0]),
    ],
)
def test_frequencies(options, weights):
    expected = np.array(weights) / np.sum(weights)
    # Five standard errors of a frequency in DRAWS draws; what is cut off is never drawn.
    error = 5 * np.sqrt(expected * (1 - expected) / DRAWS)
    assert (abs(frequencies(**options) - expected) <= error).all()
