"""The optimiser: AdamW with decoupled decay, linear warm-up, cosine decay, clipping."""

import jax
import jax.numpy as jnp
import optax

from rmat_jax.config import Config
from rmat_jax.types import PyTree

# Path components that mark a parameter which is not decayed, wherever they stand.
NOT_DECAYED = ("bias", "scale", "fusion", "memory_bias", "gate")


def decayed(params: PyTree) -> PyTree:
    """A tree of bools: whether weight decay applies. Off for norms, biases, gates, fusion weights
    and the memory's bias.
    """

    def decays(path, _):
        return not any(key.key in NOT_DECAYED for key in path)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_schedule(config: Config) -> optax.Schedule:
    """Learning rate by step: up to the peak in `warmup_steps`, then a cosine down to its
    `final_fraction`.
    """
    c = config.optim
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=c.learning_rate,
        warmup_steps=c.warmup_steps,
        decay_steps=config.steps,
        end_value=c.learning_rate * c.final_fraction,
    )
    # Of an integer step it would compute in float32, also where everything else is float64.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def make_optimizer(config: Config) -> optax.GradientTransformation:
    c = config.optim
    return optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        optax.adamw(
            make_schedule(config), c.beta1, c.beta2, weight_decay=c.weight_decay, mask=decayed
        ),
    )
