"""The masks of attention, the ages of slots, and the rules at a chunk's border.

A lane is one endless stream of documents. A token sees its own document only, in every branch. The
memory belongs to the document that was read last; a new document begins with an empty one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmat_jax.config import RMATConfig
from rmat_jax.ops.attention import Keys
from rmat_jax.ops.fused import Band
from rmat_jax.types import Array

# the document id of a place without a token; real ids are >= 0
NOBODY = -1


def visible(
    config: RMATConfig, branch: str, positions_BS: Array, documents_BS: Array, keys: Keys
) -> Array | None:
    """Returns a branch's mask [B, S, J] over some keys; None where the branch shows none of them.

    "full" shows the chunk up to the token, "local" the last W tokens (or those of the same block of
    W), "memory" the slots. Where the memory is read jointly, the first branch shows the slots too.

    Args:
        config: the model's config.
        branch: "full", "local" or "memory".
        positions_BS: the queries' positions in their chunk; B may be 1.
        documents_BS: the queries' documents.
        keys: tokens, or slots, which have no positions.
    """
    own_BSJ = documents_BS[:, :, None] == keys.documents_BJ[:, None, :]
    if keys.positions_BJ is None:
        shows = config.fused[0] if config.memory.joint else "memory"
        return own_BSJ if branch == shows else None
    if branch == "memory":
        return None
    query, key = positions_BS[:, :, None], keys.positions_BJ[:, None, :]
    if branch == "full":
        near_BSJ = key >= 0
    elif config.local.sliding:
        near_BSJ = query - key < config.local.window
    else:
        near_BSJ = query // config.local.window == key // config.local.window
    return own_BSJ & (key <= query) & near_BSJ


def seen(
    config: RMATConfig, branch: str, own: Keys, past: list[Keys], slots: Keys | None, unit: int = 1
) -> tuple[Keys, Band, int]:
    """Joins all keys that a branch shows to the tokens of whole chunks. `visible` shows the same.

    Args:
        config: the model's config.
        branch: "full", "local" or "memory".
        own: the chunks' tokens, [B, C].
        past: the windows before them, if there are any.
        slots: the slots that each chunk sees.
        unit: the lengths of rows become multiples of it, if possible.

    Returns:
        The keys, one row for each row of queries; the band of keys that a query sees; the number of
        queries in a row, C or a divisor of it.
    """
    c, keys, band, tile = config, own, Band(), config.chunk_len
    if branch == "memory":
        return slots, Band(slots=slots.keys_BJHE.shape[1]), tile
    if branch == "local":
        size = c.local.window
        if c.local.sliding:
            # padding, which no query sees, makes the window a multiple of the unit
            more = -size % unit
            fits = [d for d in range(size, tile) if tile % d == 0 and d % unit == 0]
            tile = min(fits, default=tile)
            keys, band = past[0].followed_by(own).padded(more), Band(first=-size - more, reach=size)
            keys = keys.cut(size + more + tile, tile, c.chunk_len // tile, band.first)
        else:
            tile = size
            keys = own.cut(tile, tile, c.chunk_len // tile, 0)
    if c.memory and c.memory.joint and branch == c.fused[0]:
        slots = Keys(*(jnp.repeat(x, c.chunk_len // tile, axis=0) for x in slots[:3]))
        keys, band = slots.followed_by(keys), band._replace(slots=slots.keys_BJHE.shape[1])
    return keys, band, tile


class Border(NamedTuple):
    """The facts about a chunk's end that the memories of all layers share.

    For a group of chunks each field has a leading axis G.
    """

    # whether each token of the chunk belongs to the document that was read last
    mine_BC: Array
    # the document of each slot that the chunk sees
    owners_BM: Array | None
    # chunks since each slot was written, before the write and after it; 0: unwritten
    ages_BM: Array | None
    next_ages_BM: Array | None


def border(
    config: RMATConfig, ages_BM: Array | None, owner_B: Array, last_B: Array, documents_BC: Array
) -> Border:
    """Applies the rules at the end of a chunk.

    Where another document has begun, the queue is emptied. Only tokens of the last document are
    written; a run without any of them leaves its slot unwritten.

    Args:
        config: the model's config.
        ages_BM: the ages of the slots when the chunk began; None: there is no memory.
        owner_B: the document of these slots.
        last_B: the document that was read last.
        documents_BC: the documents of the chunk's tokens; NOBODY for padding.
    """
    mine_BC = documents_BC == last_B[:, None]
    if not config.memory:
        return Border(mine_BC, None, None, None)
    writes, owners_BM = config.memory.writes, slot_documents(ages_BM, owner_B)
    ages_BM = jnp.where((last_B == owner_B)[:, None], ages_BM, 0)
    older_BM = jnp.where(ages_BM > 0, ages_BM + 1, 0)[:, writes:]
    written_BK = mine_BC.reshape(-1, writes, config.run_len).any(2)
    next_ages_BM = jnp.concatenate([older_BM, written_BK.astype(jnp.int32)], axis=1)
    return Border(mine_BC, owners_BM, ages_BM, next_ages_BM)


def borders(
    config: RMATConfig, ages_BM: Array | None, owner_B: Array, documents_GBC: Array
) -> tuple[Border, Array]:
    """Applies `border` to one chunk after the other. Returns also the document read last, [B]."""

    def end(carried, documents_BC):
        ages_BM, owner_B = carried
        last_B = last(documents_BC, documents_BC, owner_B)
        at = border(config, ages_BM, owner_B, last_B, documents_BC)
        return (at.next_ages_BM, last_B), at

    (_, last_B), at = jax.lax.scan(end, (ages_BM, owner_B), documents_GBC)
    return at, last_B


def last(x_BS: Array, documents_BS: Array, before_B: Array) -> Array:
    """Returns the value at each row's last token, [B]; `before` for a row without any token."""
    count_B = (documents_BS != NOBODY).sum(1, dtype=jnp.int32)
    place_B1 = jnp.maximum(count_B - 1, 0)[:, None]
    found_B = jnp.take_along_axis(x_BS, place_B1, axis=1)[:, 0].astype(jnp.int32)
    return jnp.where(count_B > 0, found_B, before_B)


def previous_tokens(
    token_B: Array, document_B: Array, tokens_BS: Array, documents_BS: Array
) -> Array:
    """Returns the token before each token, [B, S]; -1 where its document has none.

    Args:
        token_B: the token that was read last; -1: none yet.
        document_B: its document.
        tokens_BS: the tokens that follow.
        documents_BS: their documents.
    """
    before_BS = jnp.concatenate([token_B[:, None], tokens_BS[:, :-1]], axis=1)
    owners_BS = jnp.concatenate([document_B[:, None], documents_BS[:, :-1]], axis=1)
    return jnp.where(owners_BS == documents_BS, before_BS, -1)


def slot_documents(ages_BM: Array, document_B: Array) -> Array:
    """Returns the document of each slot, [B, M]; NOBODY where the slot is unwritten."""
    return jnp.where(ages_BM > 0, document_B[:, None], NOBODY)


def slot_positions(config: RMATConfig, chunks: int = 1) -> Array:
    """Returns each slot's position, the middle of its run of tokens, [1, M + (G - 1) K].

    The slots that the first chunk sees stand first, then the new ones of each further chunk.
    Positions count from the start of the first chunk, so -1 is the token before it.
    """
    c, (writes, slots) = config, (config.memory.writes, config.memory.slots)
    entry_J = jnp.arange(slots + (chunks - 1) * writes)
    start_J = (entry_J // writes - slots // writes) * c.chunk_len
    return (start_J + (entry_J % writes + 0.5) * c.run_len - 0.5)[None]
