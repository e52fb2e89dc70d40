"""The weights that a run is judged and used by: its own, or an average of those on the way.

Averages are the moving one of `optim.ema`, kept beside the weights, and that of
`optim.name=schedule_free`, which its weights and its state make together. Evaluations, samples and
all that reads a checkpoint take them in the place of the weights that are trained.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from rmat_jax.config import OptimConfig
from rmat_jax.types import Array, PyTree

# where the chain of `optim.py` has the state of schedule_free
_FREE = "opt_state/1/"


def begin(optim: OptimConfig, params: PyTree) -> PyTree | None:
    """The moving average before the first step: a copy, since both are donated. None: it is off."""
    return jax.tree.map(jnp.copy, params) if optim.ema else None


def move(optim: OptimConfig, average: PyTree | None, params: PyTree, updates: Array):
    """The moving average after one more step: ema a + (1 - ema) w.

    Of n steps it takes at most (1 + n) / (10 + n) for `ema`. Else it would stay near the random
    weights of the start for the first thousands.

    Args:
        optim: has `ema`.
        average: before the step, or None.
        params: after it, w.
        updates: steps that have changed the weights until now, n.
    """
    if average is None:
        return None
    keep = jnp.minimum(optim.ema, (1 + updates) / (10 + updates))
    return jax.tree.map(lambda a, w: a + (1 - keep).astype(a.dtype) * (w - a), average, params)


def evaluated(optim: OptimConfig, params: PyTree, opt_state: PyTree, ema: PyTree | None) -> PyTree:
    """The weights by which a train state is judged, where they live."""
    if ema is not None:
        return ema
    return _unfold(opt_state[1], params) if optim.name == "schedule_free" else params


_unfold = jax.jit(schedule_free_eval_params)


def needed(names: Iterable[str]) -> set[str]:
    """The leaves of a saved state from which `of_saved` makes its weights."""
    average = {name for name in names if name.startswith("ema/")}
    parts = ("params/", f"{_FREE}z/", f"{_FREE}b1")
    return average or {name for name in names if name.startswith(parts)}


def of_saved(leaves: Mapping[str, Array]) -> dict[str, Array]:
    """The weights by which a saved state is judged, by their path, such as `embed/table`."""

    def below(root):
        return {n.removeprefix(root): x for n, x in leaves.items() if n.startswith(root)}

    z = below(f"{_FREE}z/")
    if not z:
        return below("ema/") or below("params/")
    return _unfold(ScheduleFreeState(leaves[f"{_FREE}b1"], *[None] * 4, z), below("params/"))
