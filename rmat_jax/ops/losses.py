"""Scores of predictions against targets."""

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.config import IGNORE
from rmat_jax.types import Array


@struct.dataclass
class Scores:
    """The scores of each token; zero where the target is IGNORE."""

    # cross-entropy in nats, float32
    loss_BT: Array
    # whether the most likely token is the target, int8
    correct_BT: Array


def score(logits_BTV: Array, targets_BT: Array) -> Scores:
    """Computes cross-entropy in nats, and whether the arg max is right."""
    scored = targets_BT != IGNORE
    labels = jnp.where(scored, targets_BT, 0)
    log_z = jax.nn.logsumexp(logits_BTV, axis=-1)
    loss = log_z - jnp.take_along_axis(logits_BTV, labels[..., None], axis=-1)[..., 0]
    correct = logits_BTV.argmax(-1) == labels
    return Scores(jnp.where(scored, loss, 0), jnp.where(scored, correct, False).astype(jnp.int8))
