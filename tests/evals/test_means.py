"""A standard error counts what is independent."""

import numpy as np
import pytest

from rmat_jax.evals.means import clustered_mean


def test_standard_error_is_that_of_independent_units():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 2.0, 400)
    mean = clustered_mean(values, np.arange(400))
    assert mean.value == pytest.approx(values.mean())
    assert mean.error == pytest.approx(values.std(ddof=1) / 20)
    assert mean.units == 400
    # Saying everything five times adds tokens, but no knowledge.
    assert clustered_mean(
        np.repeat(values, 5), np.repeat(np.arange(400), 5)
    ).error == pytest.approx(mean.error)
    # the control
    assert clustered_mean(np.repeat(values, 5), np.arange(2000)).error < 0.5 * mean.error
    # By hand: units {1, 2} and {6}, mean 3, sums of differences -3 and 3.
    by_hand = clustered_mean(np.array([1.0, 2.0, 6.0]), np.array([7, 7, 9]))
    assert by_hand.error == pytest.approx(np.sqrt(2 * (9 + 9)) / 3)
    assert np.isnan(clustered_mean(values, np.zeros(400)).error)
    assert np.isnan(clustered_mean(values[:0], np.zeros(0)).value)
