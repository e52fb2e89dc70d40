"""What crosses from chunk to chunk and from call to call: the state, and the rules of what a token
may see.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.config import RMATConfig
from rmat_jax.ops.pool import Pool, empty_pool
from rmat_jax.types import Array

# document id of a place where no token stands; real ids are >= 0
NOBODY = -1


@struct.dataclass
class OpenChunk:
    """One layer's part of a chunk that is not full yet."""

    # rotated
    keys_BHEC: Array
    values_BHEC: Array
    # running means for the write at the chunk's end
    pool: Pool | None
    # of the slots, which stay the same until then
    memory_keys_BHEM: Array | None
    memory_values_BHEM: Array | None


@struct.dataclass
class Reading:
    """What one layer adds to its open chunk when it reads a piece."""

    # rotated
    keys_BSHE: Array
    values_BSHE: Array
    # the piece included
    pool: Pool | None


@struct.dataclass
class LayerState:
    """What one layer carries."""

    # the memory, float32, oldest first
    slots_BMD: Array | None
    # of the W tokens before the chunk, rotated to positions -W..-1
    window_keys_BHEW: Array | None
    window_values_BHEW: Array | None
    open: OpenChunk | None


Layers = (
    LayerState | tuple[LayerState, ...]
    # stacked, each leaf with a leading axis L; or one by one: see `unstack_layers`
)


@struct.dataclass
class State:
    """All that the model remembers of a batch of streams. Its size does not depend on what was
    read.

    Whether a row's memory counts is decided by `ages_BM` alone, so that zero ages forget it. A
    closed state (`open_documents_BC is None`) stands at the border of a chunk in every row;
    training carries these.
    """

    layers: Layers
    # id of the document that was read last
    document_B: Array
    # that was read last; -1: none yet. None: no layer asks for it
    token_B: Array | None
    # chunks since each slot was written, the same in all layers; 0: unwritten
    ages_BM: Array | None
    window_documents_BW: Array | None
    # of the open chunk's tokens
    open_documents_BC: Array | None
    # tokens in the open chunk, 0..C-1
    position_B: Array | None

    @property
    def is_closed(self) -> bool:
        return self.open_documents_BC is None

    def forget(self) -> "State":
        """The same state with an empty memory; a sliding window and the open chunk stay."""
        return self if self.ages_BM is None else self.replace(ages_BM=jnp.zeros_like(self.ages_BM))

    def memory_LBMD(self) -> Array:
        """The written slots; zeros elsewhere."""
        return jnp.where(self.ages_BM[None, :, :, None] > 0, self.layers.slots_BMD, 0)

    def num_bytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


def initial_state(config: RMATConfig, batch: int, *, closed: bool = False) -> State:
    """The state before the first token of `batch` streams: nothing remembered.

    Args:
        config: the model's.
        batch: rows.
        closed: without the open chunk's buffers. Calls must then read whole chunks.
    """
    c, dtype = config, jnp.dtype(config.dtype)

    def heads(length):
        return jnp.zeros((batch, c.num_heads, c.head_dim, length), dtype)

    def nobody(length):
        return jnp.full((batch, length), NOBODY, jnp.int32)

    memory, window = c.has_memory, c.has_window_carry
    open_chunk = OpenChunk(
        keys_BHEC=heads(c.chunk_len),
        values_BHEC=heads(c.chunk_len),
        pool=empty_pool(batch, c.writes, c.width, c.param_dtype) if memory else None,
        memory_keys_BHEM=heads(c.slots) if memory else None,
        memory_values_BHEM=heads(c.slots) if memory else None,
    )
    layer = LayerState(
        slots_BMD=jnp.zeros((batch, c.slots, c.width), jnp.dtype(c.param_dtype))
        if memory
        else None,
        window_keys_BHEW=heads(c.window_len) if window else None,
        window_values_BHEW=heads(c.window_len) if window else None,
        open=None if closed else open_chunk,
    )
    return State(
        layers=jax.tree.map(lambda x: jnp.broadcast_to(x, (c.num_layers, *x.shape)), layer),
        document_B=jnp.zeros(batch, jnp.int32),
        token_B=jnp.full(batch, -1, jnp.int32) if c.token_shift else None,
        ages_BM=jnp.zeros((batch, c.slots), jnp.int32) if memory else None,
        window_documents_BW=nobody(c.window_len) if window else None,
        open_documents_BC=None if closed else nobody(c.chunk_len),
        position_B=None if closed else jnp.zeros(batch, jnp.int32),
    )


class Piece(NamedTuple):
    """S tokens of each row that fall into one chunk, and what every layer needs to know of them."""

    # in the chunk
    positions_BS: Array
    # NOBODY for padding, which stands after a row's tokens
    documents_BS: Array
    # of the open chunk's tokens before the piece
    open_documents_BC: Array | None
    # of all tokens of the chunk read so far, these included
    chunk_documents_BC: Array
    window_documents_BW: Array | None
    # the document each slot belongs to, for the reads of this piece
    memory_documents_BM: Array | None
    # ages for the reads of this piece
    read_ages_BM: Array | None
    # ages when the write begins: zero if the piece began another document
    ages_BM: Array | None
    # ages after the write
    next_ages_BM: Array | None
    # the document of the last token
    last_B: Array
    # whether that is another document than before the piece
    restart_B: Array
    # whether the chunk is full after the piece
    closes_B: Array


def enter(config: RMATConfig, state: State, positions_BS: Array, documents_BS: Array) -> Piece:
    """The rules of the memory and of documents, for one piece.

    A piece's first tokens may go on with the document that the memory is of; where a new document
    begins, the queue and the running pools are emptied, and at the chunk's end only the last
    document's tokens are written.
    """
    c = config
    count_B = (documents_BS != NOBODY).sum(1, dtype=jnp.int32)
    final = jnp.maximum(count_B - 1, 0)[:, None]
    last_B = jnp.where(
        count_B > 0, jnp.take_along_axis(documents_BS, final, axis=1)[:, 0], state.document_B
    )
    restart_B = last_B != state.document_B
    end_B = jnp.take_along_axis(positions_BS, final, axis=1)[:, 0] + 1
    closes_B = (count_B > 0) & (end_B == c.chunk_len)
    if state.is_closed:
        chunk_documents_BC = documents_BS
    else:
        chunk_documents_BC = put(state.open_documents_BC, positions_BS, documents_BS, documents_BS)
    memory_documents = ages = next_ages = None
    if c.has_memory:
        memory_documents = jnp.where(state.ages_BM > 0, state.document_B[:, None], NOBODY)
        ages = jnp.where(restart_B[:, None], 0, state.ages_BM)
        written_BC = chunk_documents_BC == last_B[:, None]
        if c.memory_pool == "attention":
            written_BK = jnp.broadcast_to(written_BC.any(1, keepdims=True), (len(last_B), c.writes))
        else:
            written_BK = written_BC.reshape(-1, c.writes, c.run_len).any(2)
        older = jnp.where(ages > 0, ages + 1, 0)[:, c.writes :]
        next_ages = jnp.concatenate([older, written_BK.astype(jnp.int32)], axis=1)
    return Piece(
        positions_BS=positions_BS,
        documents_BS=documents_BS,
        open_documents_BC=state.open_documents_BC,
        chunk_documents_BC=chunk_documents_BC,
        window_documents_BW=state.window_documents_BW,
        memory_documents_BM=memory_documents,
        read_ages_BM=state.ages_BM,
        ages_BM=ages,
        next_ages_BM=next_ages,
        last_B=last_B,
        restart_B=restart_B,
        closes_B=closes_B,
    )


def previous_tokens(state: State, tokens_BS: Array, documents_BS: Array) -> Array:
    """The token before each token of a piece, [B, S]; -1 where there is none in its document."""
    before_BS, owners_BS = (
        jnp.concatenate([last_B[:, None], x_BS[:, :-1]], axis=1)
        for last_B, x_BS in ((state.token_B, tokens_BS), (state.document_B, documents_BS))
    )
    return jnp.where(owners_BS == documents_BS, before_BS, -1)


def leave(
    config: RMATConfig, state: State, piece: Piece, layers: Layers, tokens_BS: Array
) -> State:
    """The state after a piece, given what its layers carry on."""
    closes_B1 = piece.closes_B[:, None]
    window = piece.window_documents_BW
    if config.has_window_carry:
        window = jnp.where(closes_B1, piece.chunk_documents_BC[:, -config.window_len :], window)
    if config.token_shift:
        count_B = (piece.documents_BS != NOBODY).sum(1, dtype=jnp.int32)
        final_B1 = jnp.maximum(count_B - 1, 0)[:, None]
        read_B = jnp.take_along_axis(tokens_BS, final_B1, axis=1)[:, 0].astype(jnp.int32)
        state = state.replace(token_B=jnp.where(count_B > 0, read_B, state.token_B))
    state = state.replace(layers=layers, document_B=piece.last_B, window_documents_BW=window)
    if config.has_memory:
        state = state.replace(ages_BM=jnp.where(closes_B1, piece.next_ages_BM, piece.ages_BM))
    if not state.is_closed:
        count_B = (piece.documents_BS != NOBODY).sum(1, dtype=jnp.int32)
        state = state.replace(
            open_documents_BC=jnp.where(closes_B1, NOBODY, piece.chunk_documents_BC),
            position_B=jnp.where(piece.closes_B, 0, state.position_B + count_B),
        )
    return state


def append(
    layers: Layers, readings: Reading | tuple[Reading, ...], piece: Piece, x_BSD: Array
) -> Layers:
    """All layers' open chunks with a piece's keys, values and pools.

    Outside the layers' scan, which would copy every buffer that it changes: here a step of decoding
    writes one token's place.

    Args:
        layers: before the piece.
        readings: of all layers, stacked or one by one as the layers are.
        piece: that was read.
        x_BSD: the last layer's output. It makes the writes wait for all who read the buffers, which
            would be copied otherwise (XLA for CPU takes no notice of optimization_barrier). A row
            with a NaN in it writes nothing.
    """
    lost_B1 = jnp.isnan(x_BSD).any((1, 2))[:, None]
    documents_BS = jnp.where(lost_B1, NOBODY, piece.documents_BS)

    def extend(buffer_BHEC, new_BSHE):
        rows_B1, places_BS = _places(piece.positions_BS, documents_BS, buffer_BHEC.shape[-1])
        # stacked: indices that stand apart come before L
        if new_BSHE.ndim == 5:
            new_BSHE = jnp.moveaxis(new_BSHE, 0, 2)
        return buffer_BHEC.at[..., rows_B1, :, :, places_BS].set(new_BSHE, mode="drop")

    def one(layer, reading):
        chunk = layer.open.replace(
            keys_BHEC=extend(layer.open.keys_BHEC, reading.keys_BSHE),
            values_BHEC=extend(layer.open.values_BHEC, reading.values_BSHE),
            pool=reading.pool,
        )
        return layer.replace(open=chunk)

    return tuple(map(one, layers, readings)) if isinstance(layers, tuple) else one(layers, readings)


def without_large(layers: Layers) -> Layers:
    """What a write at the chunk's end may change: all but keys, values and sums of the open chunk,
    which a branch would copy.
    """
    return with_large(layers, None)


def with_large(layers: Layers, source: Layers | None) -> Layers:
    """The layers, with the open chunk's keys, values and sums of `source`."""
    if isinstance(layers, tuple):
        return tuple(map(with_large, layers, source or [None] * len(layers)))
    chunk, of = layers.open, source and source.open
    pool = chunk.pool and chunk.pool.replace(sum_BKD=of and of.pool.sum_BKD)
    keys, values = of and of.keys_BHEC, of and of.values_BHEC
    return layers.replace(open=chunk.replace(keys_BHEC=keys, values_BHEC=values, pool=pool))


def packed(x_BJHE: Array) -> Array:
    """[B, H, E, J], as the state keeps keys and values: one query's products with all keys then
    read memory in order.
    """
    return x_BJHE.transpose(0, 2, 3, 1)


def unpacked(x_BHEJ: Array) -> Array:
    """[B, J, H, E]. A view: the compiler folds it into the product that reads it."""
    return x_BHEJ.transpose(0, 3, 1, 2)


def put(buffer_BC: Array, positions_BS: Array, documents_BS: Array, new_BS: Array) -> Array:
    """The buffer [B, C] with `new` [B, S] at its positions; padding is dropped."""
    return buffer_BC.at[_places(positions_BS, documents_BS, buffer_BC.shape[1])].set(
        new_BS, mode="drop"
    )


def _places(positions_BS: Array, documents_BS: Array, length: int) -> tuple[Array, Array]:
    """Rows [B, 1] and places [B, S] of tokens in a buffer of `length` places; padding's lie
    outside.
    """
    return jnp.arange(len(positions_BS))[:, None], jnp.where(
        documents_BS == NOBODY, length, positions_BS
    )


def where_rows(mask_B: Array, new: Array, old: Array) -> Array:
    """`new` for the rows where the mask holds, `old` for the others."""
    return jnp.where(mask_B.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def unstack_layers(state: State) -> State:
    """The same state with its layers one by one, as an unstacked model reads it."""
    leaves, structure = jax.tree.flatten(state.layers)
    return state.replace(
        layers=tuple(structure.unflatten(layer) for layer in zip(*leaves, strict=True))
    )


def stack_layers(state: State) -> State:
    """The inverse of `unstack_layers`."""
    return state.replace(layers=jax.tree.map(lambda *x: jnp.stack(x), *state.layers))


def take_rows(state: State, index_G: Array) -> State:
    """The rows at these places; one beyond the last stands for the last."""
    return _by_rows(lambda axis, x: jnp.take(x, index_G, axis=axis, mode="clip"), state)


def put_rows(state: State, index_G: Array, rows: State) -> State:
    """The state with other rows at these places; what is beyond the last place is dropped."""
    return _by_rows(
        lambda axis, x, new: x.at[(slice(None),) * axis + (index_G,)].set(new, mode="drop"),
        state,
        rows,
    )


def split_rows(state: State, parts: int, *, neighbours: bool = False) -> State:
    """The rows in `parts` equal groups along a new leading axis; the leaves of the layers keep L
    behind it.

    Group p has the rows whose index is p modulo `parts`, or with `neighbours` the p-th run of rows.
    """

    def split(axis, x):
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        if neighbours:
            return jnp.moveaxis(x.reshape(*before, parts, -1, *after), axis, 0)
        return jnp.moveaxis(x.reshape(*before, -1, parts, *after), axis + 1, 0)

    return _by_rows(split, state)


def merge_rows(state: State, *, neighbours: bool = False) -> State:
    """The inverse of `split_rows`."""

    def merge(axis, x):
        x = jnp.moveaxis(x, 0, axis if neighbours else axis + 1)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return _by_rows(merge, state)


def _by_rows(change: Callable[..., Array], state: State, *others: State) -> State:
    """`change(axis, x, ...)` of every leaf, `axis` being that of the rows: 1 in stacked layers,
    whose first is L, else 0.
    """

    def on(axis, *states):
        return jax.tree.map(functools.partial(change, axis), *states)

    rest = on(0, *(s.replace(layers=None) for s in (state, *others)))
    axis = 0 if isinstance(state.layers, tuple) else 1
    return rest.replace(layers=on(axis, *(s.layers for s in (state, *others))))
