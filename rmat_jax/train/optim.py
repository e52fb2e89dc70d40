"""The optimisers: clipping, a direction, decoupled weight decay, linear warm-up and a schedule.

All but `schedule_free` differ in the direction alone. docs/training.md compares them.
"""

import math

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon, schedule_free

from rmat_jax.config import Config, OptimConfig
from rmat_jax.types import PyTree

# A parameter with one of these components in its path is not decayed.
NOT_DECAYED = ("bias", "scale", "fusion", "memory_bias", "gate")

# "wsd": the last 1 / DECAY of the steps lowers the learning rate
DECAY = 10
# Adafactor keeps two vectors in place of a matrix whose sides have at least this length
FACTORED = 128


def decayed(params: PyTree) -> PyTree:
    """Returns a tree of bools: whether weight decay applies to a parameter. It does not apply to
    norms, biases, gates, fusion weights and the memory's bias.
    """

    def decays(path, _):
        return not any(key.key in NOT_DECAYED for key in path)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_schedule(config: Config) -> optax.Schedule:
    """Makes the learning rate by step: a linear warm-up, then `optim.schedule`."""
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
    # An integer step would make it compute in float32 even where everything else is float64.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def decay_begins(config: Config) -> int:
    """Returns the step from which on the learning rate depends on `config.steps`."""
    if config.optim.schedule == "constant":
        return config.steps
    if config.optim.schedule == "wsd":
        return max(config.steps - -(-config.steps // DECAY), config.optim.warmup_steps)
    return config.optim.warmup_steps


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Makes the optimiser `optim.name`: clipping by the global norm, its direction, decay of the
    weights that `decayed` marks, and the learning rate.
    """
    c, rate = config.optim, make_schedule(config)
    finish = (
        optax.add_decayed_weights(c.weight_decay, decayed),
        optax.scale_by_learning_rate(rate),
    )
    if c.name == "schedule_free":
        # the average of the weights takes the place of momentum: arXiv 2405.15682
        direction = optax.scale_by_rms(c.beta2, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
        step = schedule_free(optax.chain(direction, *finish), rate, c.beta1)
    else:
        step = optax.chain(_direction(c), *finish)
    return optax.chain(optax.clip_by_global_norm(c.clip_norm), step)


def _direction(c: OptimConfig) -> optax.GradientTransformation:
    """Makes the direction of an optimiser, from a gradient to a step about the size of Adam's."""
    adam = optax.scale_by_adam(c.beta1, c.beta2)
    if c.name == "adamw":
        return adam
    if c.name == "lion":
        return optax.scale_by_lion(c.beta1, c.beta2)
    if c.name == "muon":
        return optax.partition({"muon": _muon(), "adam": adam}, _orthogonalised)
    # each layer of a stack is factored and clipped separately
    alone = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=FACTORED),
        optax.clip_by_block_rms(1.0),
    )
    return optax.partition({"layers": _each_layer(alone), "rest": alone}, _stacked)


def _muon() -> optax.GradientTransformation:
    """Makes Muon's direction: momentum, orthogonalised for each layer's matrix (Newton-Schulz, five
    iterations). It is scaled to the root mean square of Adam's, 0.2, so that one learning rate
    serves both (arXiv 2502.16982).
    """

    def of_matrices(kernels):
        return jax.tree.map(lambda _: MuonDimensionNumbers(-2, -1), kernels)

    def to_size(updates, params=None):
        # an orthogonal [m, n] matrix has a root mean square of 1 / sqrt(max(m, n))
        return jax.tree.map(lambda x: 0.2 * math.sqrt(max(x.shape[-2:])) * x, updates)

    orthogonal = scale_by_muon(weight_dimension_numbers=of_matrices)
    return optax.chain(orthogonal, optax.stateless(to_size))


def _orthogonalised(params: PyTree) -> PyTree:
    """Returns a tree of labels: "muon" for the matrices between the embedding and the output table,
    which are called kernels, and "adam" for all other parameters.
    """

    def label(path, _):
        return "muon" if path[-1].key == "kernel" else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _stacked(params: PyTree) -> PyTree:
    """Returns a tree of labels: "layers" for parameters whose first dimension is L, else "rest"."""

    def label(path, _):
        return "layers" if path[0].key == "layers" else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def _each_layer(alone: optax.GradientTransformation) -> optax.GradientTransformation:
    """Maps an optimiser over stacked layers. Its state has the leading axis L too."""
    return optax.GradientTransformation(jax.vmap(alone.init), jax.vmap(alone.update))
