"""Scores of predictions: cross-entropy in nats; an ignored target counts for nothing, in the
gradient too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.ops.losses import score

logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)
targets = jnp.array([[0, 4, IGNORE], [IGNORE, int(logits[1, 1].argmax()), 2]])


def test_cross_entropy_and_hits():
    scores = score(logits, targets)
    for b, t in np.ndindex(2, 3):
        if targets[b, t] == IGNORE:
            assert scores.loss_BT[b, t] == 0 and scores.correct_BT[b, t] == 0
        else:
            probabilities = np.exp(logits[b, t]) / np.exp(logits[b, t]).sum()
            np.testing.assert_allclose(
                scores.loss_BT[b, t], -np.log(probabilities[targets[b, t]]), rtol=1e-5
            )
            assert scores.correct_BT[b, t] == (probabilities.argmax() == targets[b, t])
    assert scores.correct_BT[1, 1] == 1


def test_ignored_targets_have_no_gradient():
    gradient = jax.grad(lambda x: score(x, targets).loss_BT.sum())(logits)
    np.testing.assert_array_equal(np.abs(gradient).max(-1) > 0, targets != IGNORE)


def test_large_logits_stay_finite():
    assert np.isfinite(score(1e30 * logits, targets).loss_BT).all()
