"""Bad train steps, whose gradient is out of range.

`optim.bad_step` says what happens then. With "stop" the run ends at the first loss or gradient that
is not finite. With "skip" such a step changes nothing but the position in the data. With "rollback"
the loop also restores an earlier checkpoint, and continues with data that it has not read yet. With
"skip" and "rollback" a step is also bad if the norm of its gradient is far above the norms of the
good steps before it.
"""

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.config import OptimConfig
from rmat_jax.types import Array

# the number of good steps whose norms are kept; before there are as many, no norm is too large
WINDOW = 128
# the number of bad steps in a row, or of returns to one checkpoint, at which the run stops
LIMIT = 10
# the fields of Health that a return to an earlier checkpoint keeps
COUNTS = ("bad", "in_a_row")
# the advice when a run stops
LOWER = "lower --config.optim.learning_rate or raise --config.optim.warmup_steps in a new --workdir"


@struct.dataclass
class Health:
    """The norms of a run's last gradients, and its counts of good and bad steps."""

    # [WINDOW] float32: the global norms of the last good steps, in a ring buffer
    norms: Array
    # the number of good steps, each an update of the parameters
    good: Array
    # the number of bad steps
    bad: Array
    # the number of bad steps since the last good one
    in_a_row: Array

    def highest(self, sigmas: float) -> Array:
        """Returns the highest norm of a good step: the mean of the last norms plus `sigmas` of
        their standard deviations.
        """
        highest = self.norms.mean() + sigmas * self.norms.std()
        return jnp.where(self.good < WINDOW, jnp.inf, highest)

    def after(self, norm: Array, loss: Array, optim: OptimConfig) -> "Health":
        """Adds a step with this gradient norm and loss."""
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        known = optim.bad_step != "stop"
        good = finite & (norm <= self.highest(optim.bad_step_sigmas) if known else True)
        ring = self.norms.at[self.good % WINDOW].set(norm.astype(self.norms.dtype))
        return Health(
            norms=jnp.where(good, ring, self.norms),
            good=self.good + good,
            bad=self.bad + ~good,
            in_a_row=jnp.where(good, 0, self.in_a_row + 1),
        )


def healthy() -> Health:
    """Makes the health before the first step."""
    # separate arrays, since a donated state must not hold one twice
    count = [jnp.zeros((), jnp.int32) for _ in range(3)]
    return Health(jnp.zeros(WINDOW, jnp.float32), *count)


def keep_good(before, after, health: Health):
    """Returns the tree `before` where the last step was bad, else the tree `after`."""
    return jax.tree.map(lambda old, new: jnp.where(health.in_a_row > 0, old, new), before, after)
