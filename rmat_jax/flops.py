"""Counts the FLOPs of a program in its jaxpr, since the compiler counts the body of a loop once.

May import: config, model, modules, ops, jax.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.extend import core

from rmat_jax.config import RMATConfig
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state
from rmat_jax.ops import fused


@functools.lru_cache
def per_token(config: RMATConfig) -> int:
    """Forward FLOPs a token in whole chunks; a training step costs three times as much.

    The figure is what one more chunk in a call costs, with each memory entry projected once. The
    masked half of a causal product counts, since the code computes it.
    """
    # without kernels, which hide their products
    config = dataclasses.replace(config, attention="xla", chunks_at_once=None)
    model = RMAT(config)
    with (
        jax.enable_x64(config.dtype == "float64" or jax.config.jax_enable_x64),
        fused.compiled_for("tpu"),
    ):
        tokens = jnp.zeros((1, 1), jnp.int32)
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
        state = jax.eval_shape(lambda: initial_state(config, 1))

        def of(chunks: int) -> int:
            tokens = jax.ShapeDtypeStruct((1, chunks * config.chunk_len), jnp.int32)
            return count(jax.make_jaxpr(model.apply)(variables, tokens, state))

        return (of(2) - of(1)) // config.chunk_len


def count(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
    """FLOPs of all matrix products over all devices, 2 for each multiply-add.

    What the backward pass computes again counts again. The body of a scan counts as often as it
    runs; a `cond` counts as its most expensive branch. Inside `shard_map` shapes are a device's
    own, so they count once for each place along the axes that it divides by hand. Everything else
    (softmax, norms, the optimiser) is left out. What the compiler removes later still counts.

    Raises:
        ValueError: a matrix product is inside a `while`, whose number of runs is unknown, or has a
            form not known here.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product(equation)
            continue
        if name in ("conv_general_dilated", "ragged_dot_general"):
            raise ValueError(f"{name} is not counted here")
        inner = [count(inner) for inner in core.jaxprs_in_params(params)]
        if name == "scan":
            inner = [params["length"] * sum(inner)]
        elif name == "shard_map":
            inner = [
                math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
                * sum(inner)
            ]
        elif name == "cond":
            inner = [max(inner)]
        elif name == "while" and any(inner):
            raise ValueError("a matrix product inside a while loop: nobody knows how often it runs")
        total += sum(inner)
    return total


def _product(equation: core.JaxprEqn) -> int:
    """Twice the size of the result, times the lengths that are summed over."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return (
        2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    )
