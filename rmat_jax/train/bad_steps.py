"""Bad train steps: those whose gradient is out of range. How they are known, and what is done.

`optim.bad_step` says what is done. With "stop" the run ends at the first loss or gradient that is
not finite. With "skip" such a step changes nothing but the position in the data. With "rollback"
the loop also goes back to an earlier checkpoint, and on behind the data that it has read by then.
Both also take a gradient for bad whose norm is far above the norms of the good steps before it.
"""

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.config import OptimConfig
from rmat_jax.types import Array

# good steps whose norms are remembered; before there are as many, only what is not finite is bad
WINDOW = 128
# bad steps in a row, and returns to one checkpoint, after which the run stops
LIMIT = 10
# of Health, what a return to an earlier checkpoint does not take back
COUNTS = ("bad", "in_a_row")
# what to do when a run stops
LOWER = "lower --config.optim.learning_rate or raise --config.optim.warmup_steps in a new --workdir"


@struct.dataclass
class Health:
    """What a run remembers of its gradients."""

    # [WINDOW] float32: global norms at the last good steps, in a ring
    norms: Array
    # good steps, each an update of the parameters
    good: Array
    # bad steps
    bad: Array
    # bad steps since the last good one
    in_a_row: Array

    def highest(self, sigmas: float) -> Array:
        """The highest norm of a good step: the mean of the last norms and `sigmas` of their
        standard deviations.
        """
        highest = self.norms.mean() + sigmas * self.norms.std()
        return jnp.where(self.good < WINDOW, jnp.inf, highest)

    def after(self, norm: Array, loss: Array, optim: OptimConfig) -> "Health":
        """The same after one more step, of this gradient norm and loss."""
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
    """Before the first step."""
    # each an array of its own: a donated state must not hold one twice
    count = [jnp.zeros((), jnp.int32) for _ in range(3)]
    return Health(jnp.zeros(WINDOW, jnp.float32), *count)


def keep_good(before, after, health: Health):
    """Returns the tree `before` where the last step was bad, else the tree `after`."""
    return jax.tree.map(lambda old, new: jnp.where(health.in_a_row > 0, old, new), before, after)
