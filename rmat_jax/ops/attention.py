"""The attention of the block: full, local and memory, fused. The obvious code, which faster
versions must equal.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmat_jax.types import Array


class Keys(NamedTuple):
    """What queries may look at, with what is needed to decide whether they may."""

    keys_BJHE: Array
    values_BJHE: Array
    # id of the document each key belongs to; -1: of none, seen by nobody
    documents_BJ: Array
    # in the chunk; negative: before it. None: seen at every position
    positions_BJ: Array | None = None


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Softmax over the last axis where `mask` holds. A row with nothing to attend to returns zeros,
    not NaN.
    """
    # whose gradient needs the result alone
    return jax.nn.softmax(scores, where=mask)


def visible(
    stream: str, positions_BS: Array, documents_BS: Array, keys: Keys, window_len: int, window: str
) -> Array:
    """The mask [B, S, J] of one stream: which keys each query may see. Tokens see their own
    document only.
    """
    mask_BSJ = documents_BS[:, :, None] == keys.documents_BJ[:, None, :]
    if keys.positions_BJ is None:
        return mask_BSJ
    query, key = positions_BS[:, :, None], keys.positions_BJ[:, None, :]
    mask_BSJ &= key <= query
    if stream == "full":
        return mask_BSJ & (key >= 0)
    if window == "sliding":
        return mask_BSJ & (key > query - window_len)
    return mask_BSJ & (key // window_len == query // window_len)


def hybrid_attention(
    q_BSHE: Array,
    rotated_q_BSHE: Array,
    positions_BS: Array,
    documents_BS: Array,
    chunk: list[Keys],
    memory: Keys | None,
    fusion: dict[str, Array],
    *,
    window_len: int,
    window: str,
    memory_bias_H: Array | None = None,
) -> tuple[Array, Array | None]:
    """Sum over the streams s of `fusion[s] * softmax(q k_s^T / sqrt(E)) v_s`.

    Full and local attention share queries, keys and values, so their scores are computed once, and
    their weights are added before the one product with the values. A memory without a share of its
    own is seen by the first stream, in the same softmax as the chunk.

    Args:
        q_BSHE: queries for the memory: not rotated where slots have no place beside the chunk.
        rotated_q_BSHE: the same queries, rotated by their position, for the chunk.
        positions_BS: position of each query in its chunk.
        documents_BS: document id of each query; -1 for padding, whose result means nothing.
        chunk: the chunk's keys, in as many parts as they lie in; a sliding window's carried ones
            have negative positions.
        memory: the memory's keys, or None.
        fusion: the weight of each stream that takes part, by name: one, or one for each head [H];
            they sum to 1.
        window_len: W.
        window: "block" or "sliding".
        memory_bias_H: is added to the scores of the slots.

    Returns:
        [B, S, H, E] in the values' dtype, and the weight of each slot in it [B, H, S, M], None
        without a memory. Scores, softmax and sums are float32 (float64 if the inputs are).
    """
    dtype = chunk[0].values_BJHE.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    scale = q_BSHE.shape[-1] ** -0.5

    def scores(q_BSHE, keys_BJHE):
        return jnp.einsum("bshe,bjhe->bhsj", q_BSHE, keys_BJHE, preferred_element_type=wide) * scale

    def read(weights_BHSJ, values_BJHE):
        return jnp.einsum(
            "bhsj,bjhe->bshe", weights_BHSJ.astype(dtype), values_BJHE, preferred_element_type=wide
        )

    def mask(stream, keys):
        return visible(stream, positions_BS, documents_BS, keys, window_len, window)[:, None]

    parts, part_scores = list(chunk), [scores(rotated_q_BSHE, part.keys_BJHE) for part in chunk]
    # by stream: the parts it looks at
    seen = dict.fromkeys(fusion, slice(len(chunk)))
    if memory is not None:
        parts.append(memory)
        bias_H = 0.0 if memory_bias_H is None else memory_bias_H.astype(wide)
        part_scores.append(scores(q_BSHE, memory.keys_BJHE) + jnp.reshape(bias_H, (1, -1, 1, 1)))
        if "memory" in fusion:
            seen["memory"] = slice(len(chunk), None)
        else:
            seen[next(iter(fusion))] = slice(None)
    weights = [0] * len(parts)
    for stream, share in fusion.items():
        group = range(len(parts))[seen[stream]]
        shown = jnp.concatenate([mask(stream, parts[i]) for i in group], axis=-1)
        found = masked_softmax(jnp.concatenate([part_scores[i] for i in group], axis=-1), shown)
        # a lone stream's share is 1
        if len(fusion) > 1:
            # [1, 1 or H, 1, 1]
            found *= jnp.reshape(share, (1, -1, 1, 1))
        ends = list(itertools.accumulate(parts[i].keys_BJHE.shape[1] for i in group))
        for i, part in zip(group, jnp.split(found, ends[:-1], axis=-1), strict=True):
            weights[i] += part
    out_BSHE = sum(read(part, keys.values_BJHE) for part, keys in zip(weights, parts, strict=True))
    return out_BSHE.astype(dtype), None if memory is None else weights[-1]
