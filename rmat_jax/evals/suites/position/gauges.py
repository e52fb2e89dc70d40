"""What the learned mixing parameters and gates came to."""

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import IGNORE, Config, RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from rmat_jax.modules import carry
from rmat_jax.modules.carry import State
from rmat_jax.types import Array, PyTree

# of the histogram that quantiles are read from
BINS = 200


class Openness(NamedTuple):
    """The update gate z by layer, over writes and channels: 0 keeps what the slot holds, 1 replaces
    it.
    """

    mean_L: np.ndarray
    # a tenth of the values lie below
    low_L: np.ndarray
    # a tenth of the values lie above
    high_L: np.ndarray
    # slots written over, the same in all layers; 0: all of the above are NaN
    writes: int


def fusion_weights(config: Config, params: PyTree) -> np.ndarray:
    """Share of each stream in each layer, [L, streams] or with `fusion="head"` [L, streams, H], in
    the order of `fused`.
    """
    weights_LS = jax.device_get(params["layers"]["fusion"]).astype(np.float64)
    shares_LS = np.exp(weights_LS - weights_LS.max(1, keepdims=True))
    return shares_LS / shares_LS.sum(1, keepdims=True)


def gate_openness(
    config: Config, params: PyTree, batches: Iterable[Mapping[str, np.ndarray]]
) -> Openness:
    """How far the update gates open while the batches are read, lanes as in `evaluate_heldout`.

    Only writes over a slot that holds something of the same document count: elsewhere there is
    nothing to keep. Nor do those after the last scored token of a lane, where it is padded.

    Raises:
        UserError: the model has no gate.
    """
    c = config.model
    if not c.has_memory or c.gate == "none":
        raise UserError(
            f"a model with streams={c.streams} and gate={c.gate!r} has no gate to look at"
        )
    batches = list(batches)
    rows = len(batches[0]["tokens"])
    scored_BT = np.concatenate([batch["targets"] != IGNORE for batch in batches], axis=1)
    scored_BN = scored_BT.reshape(rows, -1, c.chunk_len).any(2)
    # a scored token comes, now or later
    counts_BN = np.logical_or.accumulate(scored_BN[:, ::-1], axis=1)[:, ::-1]
    memory, totals_L, counts_LX = carry.initial_state(c, rows, closed=True), 0.0, 0
    for batch, counts_Bn in zip(batches, np.split(counts_BN, len(batches), axis=1), strict=True):
        memory, totals, counts = _read(
            c, params, memory, batch["tokens"], batch["documents"], counts_Bn
        )
        totals_L = totals_L + np.asarray(totals, np.float64)
        counts_LX = counts_LX + np.asarray(counts, np.int64)
    values = int(counts_LX[0].sum())
    if not values:
        unknown_L = np.full(c.num_layers, np.nan)
        return Openness(unknown_L, unknown_L, unknown_L, 0)
    shares_LX = counts_LX.cumsum(1) / values
    low_L, high_L = (((shares_LX < share).sum(1) + 0.5) / BINS for share in (0.1, 0.9))
    return Openness(totals_L / values, low_L, high_L, values // c.width)


@functools.partial(jax.jit, static_argnums=0)
def _read(
    config: RMATConfig,
    params: PyTree,
    memory: State,
    tokens_BT: Array,
    documents_BT: Array,
    counts_BN: Array,
) -> tuple[State, Array, Array]:
    """The memory after the batch, the sum of all z that count [L], and how many fall into each bin
    [L, BINS].
    """
    model, writes = RMAT(config), config.writes
    chunks = [
        x.reshape(len(x), -1, config.chunk_len).swapaxes(0, 1) for x in (tokens_BT, documents_BT)
    ]
    positions_BC = jnp.broadcast_to(jnp.arange(config.chunk_len), chunks[0].shape[1:])

    def read(memory, chunk):
        tokens_BC, documents_BC, counts_B = chunk
        # zero if another document began
        ages_BM = carry.enter(config, memory, positions_BC, documents_BC).ages_BM
        holds_BK = (ages_BM[:, :writes] if config.gate == "evicted" else ages_BM[:, -writes:]) > 0
        counts_BK = holds_BK & counts_B[:, None]
        (_, memory), sown = model.apply(
            {"params": params}, tokens_BC, memory, documents_BC, mutable=["gauges"]
        )
        # of the call's only chunk
        z_LBKD = sown["gauges"]["layers"]["memory"]["gate"]["openness"][0][0]
        bins_LBKD = jnp.minimum(z_LBKD * BINS, BINS - 1).astype(jnp.int32)
        counts_LBKD = jnp.broadcast_to(counts_BK[None, ..., None], z_LBKD.shape)
        add = jax.vmap(lambda bins, counts: jnp.zeros(BINS, jnp.int32).at[bins].add(counts))
        return memory, (z_LBKD.sum((1, 2, 3), where=counts_LBKD), add(bins_LBKD, counts_LBKD))

    memory, (totals_NL, counts_NLX) = jax.lax.scan(read, memory, (*chunks, counts_BN.T))
    return memory, totals_NL.sum(0), counts_NLX.sum(0)
