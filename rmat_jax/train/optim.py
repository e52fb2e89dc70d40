"""The optimiser: AdamW with decoupled decay, linear warm-up, a schedule, clipping."""

import jax
import jax.numpy as jnp
import optax

from rmat_jax.config import Config
from rmat_jax.types import PyTree

# Path components that mark a parameter which is not decayed, wherever they stand.
NOT_DECAYED = ("bias", "scale", "fusion", "memory_bias", "gate")

# "wsd": one of so many steps is of the decay
DECAY = 10


def decayed(params: PyTree) -> PyTree:
    """A tree of bools: whether weight decay applies. Off for norms, biases, gates, fusion weights
    and the memory's bias.
    """

    def decays(path, _):
        return not any(key.key in NOT_DECAYED for key in path)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_schedule(config: Config) -> optax.Schedule:
    """Learning rate by step: up to the peak in `warmup_steps`, then by `optim.schedule`."""
    c, peak, end = config.optim, config.optim.learning_rate, config.optim.final_fraction
    warm_up = optax.linear_schedule(0.0, peak, max(c.warmup_steps, 1))
    left = config.steps - c.warmup_steps
    if c.schedule == "constant":
        parts, starts = [optax.constant_schedule(peak)], []
    elif c.schedule == "wsd":
        first = decay_begins(config)
        fall = optax.linear_schedule(peak, peak * end, config.steps - first)
        parts, starts = [optax.constant_schedule(peak), fall], [first]
    else:
        parts, starts = [optax.cosine_decay_schedule(peak, left, end)], []
    schedule = optax.join_schedules([warm_up, *parts], [c.warmup_steps, *starts])
    # Of an integer step it would compute in float32, also where everything else is float64.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def decay_begins(config: Config) -> int:
    """The step from which on the learning rate depends on how many steps there are."""
    if config.optim.schedule == "constant":
        return config.steps
    if config.optim.schedule == "wsd":
        return max(config.steps - -(-config.steps // DECAY), config.optim.warmup_steps)
    return config.optim.warmup_steps


def make_optimizer(config: Config) -> optax.GradientTransformation:
    c = config.optim
    return optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        optax.adamw(
            make_schedule(config), c.beta1, c.beta2, weight_decay=c.weight_decay, mask=decayed
        ),
    )
