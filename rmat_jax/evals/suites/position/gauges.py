"""Reads the learned fusion weights, and measures how far the gates open."""

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import IGNORE, Config, RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from rmat_jax.modules.documents import border, last
from rmat_jax.modules.state import State, initial_state
from rmat_jax.types import Array, PyTree

# the number of bins of the histogram that quantiles are read from
BINS = 200


class Openness(NamedTuple):
    """The update gate z by layer, over writes and channels. 0 keeps what the slot holds, and 1
    replaces it.
    """

    mean_L: np.ndarray
    # a tenth of the values lie below
    low_L: np.ndarray
    # a tenth of the values lie above
    high_L: np.ndarray
    # the number of slots written over, equal in all layers; if it is 0, the others are NaN
    writes: int


def fusion_weights(config: Config, params: PyTree) -> np.ndarray:
    """The share of each branch in each layer, [L, branches], in the order of `fused`."""
    if len(config.model.fused) == 1:
        return np.ones((config.model.num_layers, 1))
    weights_LS = jax.device_get(params["layers"]["fusion"]).astype(np.float64)
    shares_LS = np.exp(weights_LS - weights_LS.max(1, keepdims=True))
    return shares_LS / shares_LS.sum(1, keepdims=True)


def gate_openness(
    config: Config, params: PyTree, batches: Iterable[Mapping[str, np.ndarray]]
) -> Openness:
    """Measures how far the update gates open in batches like those of `evaluate_heldout`.

    Only writes over a slot that holds something of the same document count, since elsewhere there
    is nothing to keep. Writes after the last scored token of a lane, in its padding, do not count.

    Raises:
        UserError: the model has no gate.
    """
    c = config.model
    if c.memory is None or not c.memory.gated:
        why = "model.memory.gate=none" if c.memory else f"model.branches={','.join(c.branches)}"
        raise UserError(f"a model with {why} has no gate to look at")
    batches = list(batches)
    rows = len(batches[0]["tokens"])
    scored_BT = np.concatenate([batch["targets"] != IGNORE for batch in batches], axis=1)
    scored_BN = scored_BT.reshape(rows, -1, c.chunk_len).any(2)
    # whether a scored token comes, in this chunk or later
    counts_BN = np.logical_or.accumulate(scored_BN[:, ::-1], axis=1)[:, ::-1]
    carried, totals_L, counts_LX, writes = initial_state(c, rows), 0.0, 0, 0
    for batch, counts_Bn in zip(batches, np.split(counts_BN, len(batches), axis=1), strict=True):
        carried, totals, counts, written = _read(
            c, params, carried, batch["tokens"], batch["documents"], counts_Bn
        )
        writes += int(written)
        totals_L = totals_L + np.asarray(totals, np.float64)
        counts_LX = counts_LX + np.asarray(counts, np.int64)
    values = int(counts_LX[0].sum())
    if not values:
        unknown_L = np.full(c.num_layers, np.nan)
        return Openness(unknown_L, unknown_L, unknown_L, 0)
    shares_LX = counts_LX.cumsum(1) / values
    low_L, high_L = (((shares_LX < share).sum(1) + 0.5) / BINS for share in (0.1, 0.9))
    return Openness(totals_L / values, low_L, high_L, writes)


@functools.partial(jax.jit, static_argnums=0)
def _read(
    config: RMATConfig,
    params: PyTree,
    carried: State,
    tokens_BT: Array,
    documents_BT: Array,
    counts_BN: Array,
) -> tuple[State, Array, Array, Array]:
    """Reads a batch. Returns the state after it, the sum of all z that count [L], how many of them
    fall into each bin [L, BINS], and the number of writes that count.
    """
    model = RMAT(config)
    chunks = [
        x.reshape(len(x), -1, config.chunk_len).swapaxes(0, 1) for x in (tokens_BT, documents_BT)
    ]

    def read(carried, chunk):
        tokens_BC, documents_BC, counts_B = chunk
        # the ages are zero if another document has begun
        owner_B = carried.document_B
        last_B = last(documents_BC, documents_BC, owner_B)
        ages_BM = border(config, carried.ages_BM, owner_B, last_B, documents_BC).ages_BM
        counts_BK = (ages_BM[:, : config.memory.writes] > 0) & counts_B[:, None]
        (_, carried), seen = model.apply(
            {"params": params},
            tokens_BC,
            carried,
            documents_BC,
            capture_intermediates=lambda _, name: name == "openness",
            mutable=["intermediates"],
        )
        # the openness in the call's only chunk; D is 1 if a slot has one gate
        z_LBKD = seen["intermediates"]["layers"]["memory"]["gate"]["openness"][0][0]
        bins_LBKD = jnp.minimum(z_LBKD * BINS, BINS - 1).astype(jnp.int32)
        counts_LBKD = jnp.broadcast_to(counts_BK[None, ..., None], z_LBKD.shape)
        add = jax.vmap(lambda bins, counts: jnp.zeros(BINS, jnp.int32).at[bins].add(counts))
        sums_L, bins_LX = z_LBKD.sum((1, 2, 3), where=counts_LBKD), add(bins_LBKD, counts_LBKD)
        return carried, (sums_L, bins_LX, counts_BK.sum())

    carried, sums = jax.lax.scan(read, carried, (*chunks, counts_BN.T))
    return carried, *(x.sum(0) for x in sums)
