"""Streams that stop anywhere: a closed state, and the buffers of the chunk that is not full yet.

Training and evaluation read whole chunks and never see this. A decoder reads one token at a time
and wants neither to compute the chunk again nor to copy its buffers; the shapes and the order of
writes here are made for that. The layers are the model's own (`modules/block.py`).

Parameters and layers come in two forms. As a tuple of layers they decode fast, since a scan over
layers would copy each layer's weights out of the stack before it uses them. Stacked along a leading
axis L they compile fast, whatever the number of layers, so prompts are read in this form.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.config import RMATConfig
from rmat_jax.model import RMAT
from rmat_jax.modules import documents as rules
from rmat_jax.modules.block import Block
from rmat_jax.modules.documents import NOBODY
from rmat_jax.modules.state import State, packed, slide, slide_documents, unpacked, window
from rmat_jax.ops.attention import Keys
from rmat_jax.types import Array, PyTree


@struct.dataclass
class OpenLayer:
    """One layer's part of an open state. Stacked, every leaf has an axis L before B."""

    # carried from chunk to chunk, as in a closed state
    slots_BMD: Array | None
    window_keys_BHEW: Array | None
    window_values_BHEW: Array | None
    # the slots' keys and values, which stay the same until the chunk is full
    slot_keys_BHEM: Array | None
    slot_values_BHEM: Array | None
    # the keys (rotated) and values of the open chunk's tokens
    keys_BHEC: Array
    values_BHEC: Array
    # the vectors of these tokens that the memory will keep
    kept_BCD: Array | None


Layers = tuple[OpenLayer, ...] | OpenLayer


@struct.dataclass
class OpenState:
    """All that the model remembers of a batch of streams, wherever each stands in its chunk."""

    layers: Layers
    # chunks since each slot was written, and the document that the slots belong to
    ages_BM: Array | None
    owner_B: Array
    window_documents_BW: Array | None
    # documents of the open chunk's tokens; NOBODY where no token stands yet
    documents_BC: Array
    # tokens in the open chunk, 0..C-1
    position_B: Array
    # document and id of the token that was read last
    document_B: Array
    token_B: Array | None

    def forget(self) -> "OpenState":
        """The same state with an empty memory; a sliding window and the open chunk stay."""
        return self if self.ages_BM is None else self.replace(ages_BM=jnp.zeros_like(self.ages_BM))

    def num_bytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


def initial_state(config: RMATConfig, batch: int) -> OpenState:
    """The state of `batch` streams before their first token, with a tuple of layers."""
    c, dtype, wide = config, jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)

    def heads(length):
        return jnp.zeros((batch, c.num_heads, c.head_dim, length), dtype)

    slots = c.memory and c.memory.slots
    size = c.local.window if c.carries_window else 0

    def layer():
        return OpenLayer(
            slots_BMD=jnp.zeros((batch, slots, c.width), wide) if slots else None,
            window_keys_BHEW=heads(size) if size else None,
            window_values_BHEW=heads(size) if size else None,
            slot_keys_BHEM=heads(slots) if slots else None,
            slot_values_BHEM=heads(slots) if slots else None,
            keys_BHEC=heads(c.chunk_len),
            values_BHEC=heads(c.chunk_len),
            kept_BCD=jnp.zeros((batch, c.chunk_len, c.width), _kept_dtype(c)) if slots else None,
        )

    return OpenState(
        # each with arrays of its own: a donated state must not hold one twice
        layers=tuple(layer() for _ in range(c.num_layers)),
        ages_BM=jnp.zeros((batch, slots), jnp.int32) if slots else None,
        owner_B=jnp.zeros(batch, jnp.int32),
        window_documents_BW=jnp.full((batch, size), NOBODY, jnp.int32) if size else None,
        documents_BC=jnp.full((batch, c.chunk_len), NOBODY, jnp.int32),
        position_B=jnp.zeros(batch, jnp.int32),
        document_B=jnp.zeros(batch, jnp.int32),
        token_B=jnp.full(batch, -1, jnp.int32) if c.token_shift else None,
    )


def _kept_dtype(config: RMATConfig) -> Any:
    return jnp.dtype(config.dtype if config.memory.keeps_outputs else config.param_dtype)


def unstack_params(params: PyTree) -> PyTree:
    """The model's parameters with a tuple of layers."""
    leaves, structure = jax.tree.flatten(params["layers"])
    layers = tuple(structure.unflatten(layer) for layer in zip(*leaves, strict=True))
    return params | {"layers": layers}


def stack(layers: tuple[PyTree, ...]) -> PyTree:
    """Stacks a tuple of layers: one tree whose leaves have a leading axis L."""
    return jax.tree.map(lambda *x: jnp.stack(x), *layers)


def stack_params(params: PyTree) -> PyTree:
    """The inverse of `unstack_params`."""
    return params | {"layers": stack(params["layers"])}


def stack_layers(state: OpenState) -> OpenState:
    """The same state with its layers stacked."""
    return state.replace(layers=stack(state.layers))


def unstack_layers(state: OpenState) -> OpenState:
    """The inverse of `stack_layers`."""
    leaves, structure = jax.tree.flatten(state.layers)
    layers = tuple(structure.unflatten(layer) for layer in zip(*leaves, strict=True))
    return state.replace(layers=layers)


def read_chunks(
    config: RMATConfig,
    params: PyTree,
    state: OpenState,
    tokens_BT: Array,
    documents_BT: Array,
) -> tuple[Array, OpenState]:
    """Reads whole chunks as training does, many at once.

    Args:
        config: the model's config.
        params: the model's parameters, stacked.
        state: the state, stacked; all rows stand at a chunk's border.
        tokens_BT: token ids, T a multiple of the chunk.
        documents_BT: as `RMAT.__call__` takes them.

    Returns:
        The logits after the last token [B, V], and the state.
    """
    c, layers = config, state.layers
    closed = State(
        slots_LBMD=layers.slots_BMD,
        window_keys_LBHEW=layers.window_keys_BHEW,
        window_values_LBHEW=layers.window_values_BHEW,
        window_documents_BW=state.window_documents_BW,
        ages_BM=state.ages_BM,
        document_B=state.document_B,
        token_B=state.token_B,
    )
    read = functools.partial(RMAT(c).apply, {"params": params}, method=RMAT.read)
    logits_BV, after = read(tokens_BT, closed, documents_BT)
    layers = layers.replace(
        slots_BMD=after.slots_LBMD,
        window_keys_BHEW=after.window_keys_LBHEW,
        window_values_BHEW=after.window_values_LBHEW,
    )
    state = state.replace(
        ages_BM=after.ages_BM,
        owner_B=after.document_B,
        window_documents_BW=after.window_documents_BW,
        document_B=after.document_B,
        token_B=after.token_B,
    )
    if c.memory:
        owners_1BM = rules.slot_documents(state.ages_BM, state.owner_B)[None]

        def fill(_, weights, layer):
            block = Block(c).bind({"params": weights})
            return None, layer.replace(**_slot_keys(block, layer.slots_BMD, owners_1BM))

        layers = _over_layers(fill, None, params["layers"], layers)[1]
    return logits_BV, state.replace(layers=layers)


def read(
    config: RMATConfig,
    params: PyTree,
    state: OpenState,
    tokens_BT: Array,
    documents: Array | None = None,
    lengths: Array | None = None,
) -> tuple[Array, OpenState]:
    """Reads on, wherever each row stands in its chunk.

    Args:
        config: the model's config.
        params: the model's parameters, in the form of the state's layers.
        state: the state before these tokens.
        tokens_BT: token ids, any T >= 1, padded at the end.
        documents: [B, T], as `RMAT.__call__` takes them.
        lengths: [B] how many tokens of each row count; None: all.

    Returns:
        The last layer's vectors [B, T, D], which mean nothing beyond a row's length, and the state,
        in the form of the one given.
    """
    batch, length = tokens_BT.shape
    if documents is None:
        documents = jnp.broadcast_to(state.document_B[:, None], (batch, length))
    limit_B = jnp.full(batch, length) if lengths is None else lengths
    index_NBS, positions_NBS = _pieces(state.position_B, length, config.chunk_len)
    counts_NBS = (positions_NBS < config.chunk_len) & (index_NBS < limit_B[None, :, None])

    def pick(x_BT):
        return jax.vmap(lambda at: jnp.take_along_axis(x_BT, at, axis=1, mode="clip"))(index_NBS)

    documents_NBS = jnp.where(counts_NBS, pick(documents.astype(jnp.int32)), NOBODY)
    pieces = pick(tokens_BT), documents_NBS, positions_NBS

    def step(state, piece):
        return read_piece(config, params, state, *piece)

    if len(index_NBS) == 1:
        state, x_BSD = step(state, jax.tree.map(lambda x: x[0], pieces))
        return x_BSD, state
    state, x_NBSD = jax.lax.scan(step, state, pieces)
    return _join(x_NBSD, positions_NBS[0, :, 0], length, config.chunk_len), state


def read_piece(
    config: RMATConfig,
    params: PyTree,
    state: OpenState,
    tokens_BS: Array,
    documents_BS: Array,
    positions_BS: Array,
) -> tuple[OpenState, Array]:
    """Reads tokens that fall into the open chunk of each row, and closes the chunks that are full.

    Args:
        config: as in `read`.
        params: as in `read`.
        state: as in `read`.
        tokens_BS: token ids.
        documents_BS: document ids; NOBODY for padding, which stands after a row's tokens.
        positions_BS: positions in the chunk.

    Returns:
        The state, and the last layer's vectors [B, S, D].
    """
    c, before_BS, token_B = config, None, state.token_B
    if c.token_shift:
        before_BS = rules.previous_tokens(token_B, state.document_B, tokens_BS, documents_BS)
        token_B = rules.last(tokens_BS, documents_BS, token_B)
    x_BSD = _outside(c, params, RMAT.embed_tokens, tokens_BS, before_BS)

    def one(x_BSD, weights, layer):
        block = Block(c).bind({"params": _in_time(c, weights, x_BSD)})
        h_BSD, heads = block.ask(x_BSD, positions_BS)
        own = Keys(heads.keys, heads.values, documents_BS, positions_BS)
        y_BSD = block(x_BSD, heads, own, *_past(c, state, layer))
        kept_BSD = y_BSD if c.memory and c.memory.keeps_outputs else h_BSD
        return y_BSD, (heads.keys, heads.values, kept_BSD)

    x_BSD, gained = _over_layers(one, x_BSD, params["layers"], state.layers)
    places = _places(positions_BS, documents_BS, c.chunk_len, x_BSD)
    count_B = (documents_BS != NOBODY).sum(1, dtype=jnp.int32)
    state = state.replace(
        layers=_append(state.layers, gained, places),
        documents_BC=state.documents_BC.at[places].set(documents_BS, mode="drop"),
        position_B=state.position_B + count_B,
        document_B=rules.last(documents_BS, documents_BS, state.document_B),
        token_B=token_B,
    )
    return _close(c, params, state), x_BSD


def last(
    config: RMATConfig,
    params: PyTree,
    state: OpenState,
    tokens_BT: Array,
    lengths: Array | None = None,
    documents: Array | None = None,
) -> tuple[Array, OpenState]:
    """Reads as `read` does, and gives the logits after each row's last token, [B, V].

    The logits of a row whose length is 0 mean nothing.
    """
    x_BTD, state = read(config, params, state, tokens_BT, documents, lengths)
    batch, length = tokens_BT.shape
    final_B = jnp.full(batch, length - 1) if lengths is None else jnp.maximum(lengths - 1, 0)
    x_B1D = jnp.take_along_axis(x_BTD, final_B[:, None, None], axis=1)
    return logits(config, params, x_B1D)[:, 0], state


def logits(config: RMATConfig, params: PyTree, x_BSD: Array) -> Array:
    """Logits [B, S, V] of the last layer's vectors."""
    return _outside(config, params, RMAT.logits, x_BSD)


def _outside(config: RMATConfig, params: PyTree, method: Callable, *inputs: Any) -> Array:
    """Applies a method of the model that needs no layer."""
    rest = {name: x for name, x in params.items() if name != "layers"}
    rest = _in_time(config, rest, inputs[0])
    return RMAT(config).apply({"params": rest}, *inputs, method=method)


def _in_time(config: RMATConfig, weights: PyTree, x: Array) -> PyTree:
    """Returns the weights unchanged, but lets them depend on `x`.

    Weights narrower than the dtype of the computation are widened where they are read. XLA would
    widen those of all layers once, before the loop over tokens, and so hold a wide model beside the
    narrow one. The barrier keeps the widening inside the loop. The CPU's compiler may drop
    the barrier, so a zero that is made of `x` keeps each layer's widening in its place, as in
    `_places`. It is added to the weights' bits, since XLA would take a sum of numbers apart.
    """
    width = jnp.dtype(config.dtype).itemsize
    if all(leaf.dtype.itemsize >= width for leaf in jax.tree.leaves(weights)):
        return weights
    weights, x = jax.lax.optimization_barrier((weights, x))
    zero = jnp.clip(jnp.nan_to_num(x.sum().astype(jnp.float32)), 0, 0).astype(jnp.uint16)

    def wait(leaf):
        if leaf.dtype.itemsize != zero.dtype.itemsize:
            return leaf
        bits = jax.lax.bitcast_convert_type(leaf, zero.dtype) + zero
        return jax.lax.bitcast_convert_type(bits, leaf.dtype)

    return jax.tree.map(wait, weights)


def _over_layers(body: Callable, x: Any, *layers: Any) -> tuple[Any, Any]:
    """Runs `x, out = body(x, *parts)` for each layer. Returns the last x, and all outs in the
    layers' form.
    """
    if not isinstance(layers[0], tuple):
        return jax.lax.scan(lambda x, parts: body(x, *parts), x, layers)
    outs = []
    for parts in zip(*layers, strict=True):
        x, out = body(x, *parts)
        outs.append(out)
    return x, tuple(outs)


def _past(config: RMATConfig, state: OpenState, layer: OpenLayer) -> tuple[list[Keys], Keys | None]:
    """The keys before a piece: a list of carried window and open chunk, and the slots."""
    past, slots = [], None
    if config.carries_window:
        past.append(
            window(layer.window_keys_BHEW, layer.window_values_BHEW, state.window_documents_BW)
        )
    chunk = unpacked(layer.keys_BHEC), unpacked(layer.values_BHEC)
    past.append(Keys(*chunk, state.documents_BC, jnp.arange(config.chunk_len)[None]))
    if config.memory:
        owners_BM = rules.slot_documents(state.ages_BM, state.owner_B)
        slots = Keys(unpacked(layer.slot_keys_BHEM), unpacked(layer.slot_values_BHEM), owners_BM)
    return past, slots


def _places(
    positions_BS: Array, documents_BS: Array, chunk_len: int, x_BSD: Array
) -> tuple[Array, Array]:
    """Rows [B, 1] and places [B, S] of a piece in the chunk's buffers; padding falls outside.

    A zero that is made of the last layer's output is added. So the writes wait for all reads of the
    buffers, and XLA changes them in place; otherwise it copies them (on CPU it ignores
    `optimization_barrier`). It is zero even if the vectors hold NaN or infinity.
    """
    zero = jnp.clip(jnp.nan_to_num(x_BSD.sum()), 0, 0).astype(jnp.int32)
    places_BS = jnp.where(documents_BS == NOBODY, chunk_len, positions_BS)
    return jnp.arange(len(positions_BS))[:, None], places_BS + zero


def _append(layers: Layers, gained: Any, places: tuple[Array, Array]) -> Layers:
    """Writes a piece's keys, values and kept vectors into the buffers of all layers.

    This stands outside the loop over layers, so that decoding writes one token's place only.
    """
    rows_B1, places_BS = places

    def extend(buffer_BHEC, new_BSHE):
        return buffer_BHEC.at[rows_B1, :, :, places_BS].set(new_BSHE, mode="drop")

    def one(_, layer, new):
        keys_BSHE, values_BSHE, kept_BSD = new
        kept_BCD = layer.kept_BCD
        if kept_BCD is not None:
            kept_BCD = kept_BCD.at[places].set(kept_BSD, mode="drop")
        return None, layer.replace(
            keys_BHEC=extend(layer.keys_BHEC, keys_BSHE),
            values_BHEC=extend(layer.values_BHEC, values_BSHE),
            kept_BCD=kept_BCD,
        )

    return _over_layers(one, None, layers, gained)[1]


def _close(config: RMATConfig, params: PyTree, state: OpenState) -> OpenState:
    """Closes the chunks that are full: writes memory and window, and begins an empty chunk."""
    c, closes_B = config, state.position_B == config.chunk_len
    at = rules.border(c, state.ages_BM, state.owner_B, state.document_B, state.documents_BC)

    def close(layers):
        def one(before, weights, layer):
            weights = _in_time(c, weights, before)
            new, old = _closed(c, weights, state, layer, at), _carried(layer)
            # the layers do not depend on each other, but need less memory one after the other
            after = sum(x.sum(dtype=before.dtype) for x in new.values())
            return before + after, jax.tree.map(lambda x, y: _where(closes_B, x, y), new, old)

        return _over_layers(one, jnp.zeros(()), params["layers"], layers)[1]

    def keep(layers):
        return _over_layers(lambda _, layer: (None, _carried(layer)), None, layers)[1]

    # A branch of `cond` copies what it returns, so fields that do not change stay outside.
    changed = jax.lax.cond(closes_B.any(), close, keep, state.layers)
    layers = _over_layers(lambda _, x, new: (None, x.replace(**new)), None, state.layers, changed)
    owners_BW, ages_BM = state.window_documents_BW, state.ages_BM
    if c.carries_window:
        owners_BW = _where(closes_B, slide_documents(c, owners_BW, state.documents_BC), owners_BW)
    if c.memory:
        ages_BM = _where(closes_B, at.next_ages_BM, ages_BM)
    return state.replace(
        layers=layers[1],
        ages_BM=ages_BM,
        owner_B=jnp.where(closes_B, state.document_B, state.owner_B),
        window_documents_BW=owners_BW,
        documents_BC=jnp.where(closes_B[:, None], NOBODY, state.documents_BC),
        position_B=jnp.where(closes_B, 0, state.position_B),
    )


def _closed(
    config: RMATConfig, weights: PyTree, state: OpenState, layer: OpenLayer, at: rules.Border
) -> dict[str, Array]:
    """The fields that a layer carries on from a full chunk."""
    c, block, new = config, Block(config).bind({"params": weights}), _carried(layer)
    if c.memory:
        of_one = jax.tree.map(lambda x: x[None], at)
        slots_BMD, _ = block.write(layer.slots_BMD, layer.kept_BCD, of_one)
        new |= {"slots_BMD": slots_BMD} | _slot_keys(block, slots_BMD, of_one.owners_BM)
    if c.carries_window:
        (before, chunk), _ = _past(c, state, layer)
        windows = slide(c, before.followed_by(chunk), c.chunk_len)
        new["window_keys_BHEW"], new["window_values_BHEW"] = windows
    return new


def _slot_keys(block: Block, slots_BMD: Array, owners_1BM: Array) -> dict[str, Array]:
    """The slots' keys and values, by field."""
    keys = block.slots(slots_BMD, owners_1BM)
    return {"slot_keys_BHEM": packed(keys.keys_BJHE), "slot_values_BHEM": packed(keys.values_BJHE)}


def _carried(layer: OpenLayer) -> dict[str, Array]:
    """The fields that the chunk's end changes."""
    names = ("slots_BMD", "slot_keys_BHEM", "slot_values_BHEM")
    names += ("window_keys_BHEW", "window_values_BHEW")
    return {name: getattr(layer, name) for name in names if getattr(layer, name) is not None}


def _where(mask_B: Array, new: Array, old: Array) -> Array:
    """`new` for the rows where the mask holds, `old` for the others."""
    return jnp.where(mask_B.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _pieces(start_B: Array, length: int, chunk_len: int) -> tuple[Array, Array]:
    """Cuts [B, T] at chunk borders, for rows that stand at `start_B` in their chunks.

    The first piece of a row fills up its open chunk. Each piece has room for S = min(T, C) tokens,
    and there are as many pieces as the worst start needs. Places without a token get a position
    >= C or an index >= T.

    Returns:
        The index in T [N, B, S], and the position in the chunk [N, B, S].
    """
    size = min(length, chunk_len)
    count = -(-(length + chunk_len - 1) // chunk_len)
    piece_N11 = jnp.arange(count)[:, None, None]
    column_11S = jnp.arange(size)[None, None]
    start_1B1 = start_B[None, :, None]
    later_NBS = piece_N11 * chunk_len - start_1B1 + column_11S
    index_NBS = jnp.where(piece_N11 == 0, column_11S, later_NBS)
    positions_NBS = jnp.where(piece_N11 == 0, start_1B1 + column_11S, column_11S)
    return index_NBS, positions_NBS


def _join(x_NBSD: Array, start_B: Array, length: int, chunk_len: int) -> Array:
    """Joins the vectors of the pieces that `_pieces` has cut: [B, T, D]."""
    count, batch, size, width = x_NBSD.shape
    x_BJD = x_NBSD.swapaxes(0, 1).reshape(batch, count * size, width)
    place_BT = start_B[:, None] + jnp.arange(length)[None]
    piece_BT = place_BT // chunk_len
    first_BT = place_BT - start_B[:, None]
    column_BT = jnp.where(piece_BT == 0, first_BT, place_BT % chunk_len)
    return jnp.take_along_axis(x_BJD, (piece_BT * size + column_BT)[..., None], axis=1)
