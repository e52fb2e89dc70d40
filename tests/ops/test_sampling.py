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
    rules = (jnp.full(DRAWS, value) for value in (temperature, top_k, top_p))
    drawn = sample(jax.random.split(jax.random.key(0), DRAWS), logits, *rules)
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


def test_rows_have_rules_of_their_own():
    """Each row is drawn as if all had its rules: what others ask for changes nothing, not even by
    rounding.
    """
    rng = np.random.default_rng(0)
    rules = [
        (1.0, 0, 1.0),
        (0.0, 0, 1.0),
        (0.7, 3, 1.0),
        (1.0, 0, 0.6),
        (2.0, 40, 0.9),
        (1.5, 1000, 1.0),
    ]
    rows = np.arange(600) % len(rules)
    logits = jnp.asarray(rng.normal(size=(600, 257)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 600)

    def draw(chosen):
        columns = np.array([rules[row] for row in chosen]).T
        return sample(
            keys, logits, jnp.float32(columns[0]), jnp.int32(columns[1]), jnp.float32(columns[2])
        )

    mixed = draw(rows)
    for index in range(len(rules)):
        alone = draw(np.full(600, index))
        np.testing.assert_array_equal(mixed[rows == index], alone[rows == index])
        if index != rules.index((1.5, 1000, 1.0)):
            # the control
            assert (alone != draw(np.full(600, 5))).any()


def test_ties_with_the_last_that_stays_stay():
    logits = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]] * DRAWS, jnp.float32))
    keys = jax.random.split(jax.random.key(0), DRAWS)
    one = jnp.ones(DRAWS)
    for top_k, top_p in ((2, 1.0), (0, 0.5)):
        drawn = sample(keys, logits, one, jnp.full(DRAWS, top_k), top_p * one)
        assert set(np.unique(drawn)) == {0, 1, 2, 3}
