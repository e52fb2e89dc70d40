"""Averages of the weights, which are evaluated and used in place of the trained weights.

`optim.ema` keeps a moving average beside the weights. The average of `optim.name=schedule_free` is
computed from its weights and its state. Evaluations, samples and all readers of a checkpoint use
the average where there is one, else the trained weights.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from rmat_jax.config import OptimConfig
from rmat_jax.types import Array, PyTree

# the path of schedule_free's state in the optimiser state that `optim.py` makes
_FREE = "opt_state/1/"


def begin(optim: OptimConfig, params: PyTree) -> PyTree | None:
    """Makes the moving average before the first step, a copy since both are donated; None: off."""
    return jax.tree.map(jnp.copy, params) if optim.ema else None


def move(optim: OptimConfig, average: PyTree | None, params: PyTree, updates: Array):
    """Returns the moving average after one more step: ema a + (1 - ema) w.

    After n steps `ema` is at most (1 + n) / (10 + n). Otherwise the average would stay near the
    random initial weights for thousands of steps.

    Args:
        optim: the settings, which have `ema`.
        average: the average a before the step, or None.
        params: the weights w after the step.
        updates: n, the number of steps that have changed the weights.
    """
    if average is None:
        return None
    keep = jnp.minimum(optim.ema, (1 + updates) / (10 + updates))
    return jax.tree.map(lambda a, w: a + (1 - keep).astype(a.dtype) * (w - a), average, params)


def evaluated(optim: OptimConfig, params: PyTree, opt_state: PyTree, ema: PyTree | None) -> PyTree:
    """Returns the weights of a train state that are evaluated, on their devices."""
    if ema is not None:
        return ema
    return _unfold(opt_state[1], params) if optim.name == "schedule_free" else params


_unfold = jax.jit(schedule_free_eval_params)


def needed(names: Iterable[str]) -> set[str]:
    """Returns the names of the leaves of a saved state that `of_saved` needs."""
    average = {name for name in names if name.startswith("ema/")}
    parts = ("params/", f"{_FREE}z/", f"{_FREE}b1")
    return average or {name for name in names if name.startswith(parts)}


def of_saved(leaves: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the weights of a saved state that are evaluated, by path, such as `embed/table`."""

    def below(root):
        return {n.removeprefix(root): x for n, x in leaves.items() if n.startswith(root)}

    z = below(f"{_FREE}z/")
    if not z:
        return below("ema/") or below("params/")
    return _unfold(ScheduleFreeState(leaves[f"{_FREE}b1"], *[None] * 4, z), below("params/"))
