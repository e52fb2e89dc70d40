"""Looks into a model while it reads one text, chunk by chunk, and gives arrays of fixed size that
`inspect` counts.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from rmat_jax.config import IGNORE, RMATConfig
from rmat_jax.infer.streams import PREFILL_CHUNKS
from rmat_jax.model import RMAT
from rmat_jax.modules.block import Block
from rmat_jax.modules.state import State, initial_state
from rmat_jax.types import Array, PyTree

# the tokens of a passage, or one chunk if that is longer
PASSAGE = 512
# the number of chunks whose entries are followed at the same time
MARKS = 4
# the turns of the queue for which an entry is followed
TURNS = 16


@struct.dataclass
class Looking:
    """What is carried from chunk to chunk."""

    carried: State
    # the state of the same model with its memory emptied before each chunk
    cut: State | None
    # the age in chunks of the content of each slot's channel, weighted by how much of it is left
    content_LMD: Array | None
    # how much is left of the entries of mark R
    marks_RLMD: Array | None


class Seen(NamedTuple):
    """What is seen in one chunk or, stacked, in many. Only queries with a target count. A part that
    the model does not have is None.
    """

    # nats
    loss_C: Array
    cut_C: Array | None
    # ages of the slots when they were read, in chunks; 0: unwritten
    ages_M: Array | None
    # the mean age of what the slots held
    content_LM: Array | None
    # the attention on the slots, as a sum over queries and a mean over heads
    mass_LM: Array | None
    # the memory's share of attention's output, |memory| / (|memory| + |chunk|)
    share_LC: Array | None
    # the same by head, as a sum over queries
    share_LH: Array | None
    # the slots that a head attends to, exp(entropy) of its weights, as a sum over queries
    slots_LH: Array | None
    # the update gate z, as a sum over the writes to slots that held something
    open_LD: Array | None
    # the same for each entry, as a mean over channels
    open_LK: Array | None
    # the number of such writes, 0 or 1 an entry
    writes_K: Array | None
    # how much is left of the marked entries after the chunk's write
    left_RL: Array | None


def begin(config: RMATConfig) -> Looking:
    """What is carried into the first chunk."""
    # copies, since all arrays are donated, and each can be donated only once
    state, cut = (jax.tree.map(jnp.copy, initial_state(config, 1)) for _ in range(2))
    if not config.memory:
        return Looking(state, None, None, None)
    slots = (config.num_layers, config.memory.slots, config.width)
    return Looking(state, cut, jnp.zeros(slots), jnp.zeros((MARKS, *slots)))


def passage_chunks(config: RMATConfig) -> int:
    """The number of chunks in a passage."""
    return max(PASSAGE // config.chunk_len, 1)


def turn(config: RMATConfig) -> int:
    """The number of chunks that write the whole queue once; 1 without a queue."""
    return config.memory.slots // config.memory.writes if config.memory else 1


def horizon(config: RMATConfig) -> int:
    """The number of chunks for which a mark is followed."""
    return TURNS * turn(config)


def mark_ages(config: RMATConfig, first: int, count: int) -> np.ndarray:
    """The chunks since each mark was set, [N, R], after each of `count` chunks from chunk `first`
    on; negative: not set yet.
    """
    ages_NR = np.arange(first, first + count)[:, None] - np.arange(MARKS)[None] * (
        horizon(config) // MARKS
    )
    return np.where(ages_NR < 0, -1, ages_NR % horizon(config))


def windows(
    config: RMATConfig, pieces: Iterable[np.ndarray], end: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a document's tokens and targets, [N, C] each, whole passages at a time. The last
    passage is padded with targets IGNORE.
    """
    passage = passage_chunks(config)
    length = passage * max(PREFILL_CHUNKS // passage, 1) * config.chunk_len
    held, ended, pieces = np.array([end]), False, iter(pieces)
    while not ended:
        while len(held) <= length and not ended:
            piece = next(pieces, None)
            ended = piece is None
            held = np.append(held, end if ended else piece)
        while len(held) > length or (ended and len(held) > 1):
            tokens, targets = held[:-1][:length], held[1:][:length]
            room = (0, length - len(tokens))
            held = held[len(tokens) :]
            padded = (
                np.pad(tokens, room, constant_values=end),
                np.pad(targets, room, constant_values=IGNORE),
            )
            yield tuple(x.reshape(-1, config.chunk_len).astype(np.int32) for x in padded)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def look(
    config: RMATConfig,
    params: PyTree,
    looking: Looking,
    tokens_NC: Array,
    targets_NC: Array,
    marked_NR: Array,
) -> tuple[Looking, Seen]:
    """Reads N chunks.

    Args:
        config: the model's config.
        params: the model's parameters.
        looking: what is carried into these chunks.
        tokens_NC: tokens from `windows`.
        targets_NC: targets from `windows`.
        marked_NR: for each of MARKS, whether the entries that a chunk writes are marked.
    """
    model = RMAT(dataclasses.replace(config, chunks_at_once=1, attention="obvious"))

    def score(carried, tokens_C, targets_C):
        return model.apply(
            {"params": params},
            tokens_C[None],
            targets_C[None],
            carried,
            method=RMAT.score,
            capture_intermediates=_wanted,
            mutable=["intermediates"],
        )

    def read(looking, chunk):
        tokens_C, targets_C, marked_R = chunk
        (scores, after), captured = score(looking.carried, tokens_C, targets_C)
        if not config.memory:
            return looking.replace(carried=after), Seen(scores.loss_BT[0], *[None] * 11)
        (cut_scores, cut), _ = score(looking.cut.forget(), tokens_C, targets_C)
        layers, ages_M = captured["intermediates"]["layers"], looking.carried.ages_BM[0]
        mass_LM, share_LC, share_LH, slots_LH = _reads(
            config, layers, looking.carried, targets_C != IGNORE
        )
        z_LKD = open_LD = open_LK = writes_K = None
        if config.memory.gated:
            z_LKD = layers["memory"]["gate"]["openness"][0][0, :, 0]
            z_LKD = jnp.broadcast_to(z_LKD, (*z_LKD.shape[:2], config.width))
            writes_K = ages_M[: config.memory.writes] > 0
            counted_LKD = jnp.where(writes_K[None, :, None], z_LKD, 0)
            open_LD, open_LK = counted_LKD.sum(1), counted_LKD.mean(2)
        written_1M1 = after.ages_BM[0][None, :, None] > 0
        content_LMD = jnp.where(written_1M1, 1 + _write(config, looking.content_LMD, z_LKD), 0)
        marks_RLMD = jax.vmap(lambda x_LMD: _write(config, x_LMD, z_LKD))(looking.marks_RLMD)
        slots, writes = config.memory.slots, config.memory.writes
        newest_M = jnp.arange(slots) >= slots - writes
        marks_RLMD = jnp.where(
            marked_R[:, None, None, None], newest_M[None, None, :, None], marks_RLMD
        )
        seen = Seen(
            loss_C=scores.loss_BT[0],
            cut_C=cut_scores.loss_BT[0],
            ages_M=ages_M,
            content_LM=looking.content_LMD.mean(2),
            mass_LM=mass_LM,
            share_LC=share_LC,
            share_LH=share_LH,
            slots_LH=slots_LH,
            open_LD=open_LD,
            open_LK=open_LK,
            writes_K=writes_K,
            left_RL=marks_RLMD.sum((2, 3)) / (writes * config.width),
        )
        return Looking(after, cut, content_LMD, marks_RLMD), seen

    return jax.lax.scan(read, looking, (tokens_NC, targets_NC, marked_NR))


def _wanted(module: nn.Module, name: str) -> bool:
    """Whether `look` needs an output: values of tokens and slots, attention weights, or gates."""
    return name == "openness" or (isinstance(module, Block) and name in ("ask", "slots", "weigh"))


def _reads(
    config: RMATConfig, layers: PyTree, before: State, scored_C: Array
) -> tuple[Array, Array, Array, Array]:
    """Computes mass_LM, share_LC, share_LH and slots_LH of `Seen`.

    Args:
        config: the model's config.
        layers: what the layers returned for one chunk and one row, [1, L, 1, ...].
        before: the state before the chunk.
        scored_C: whether each token counts.
    """
    *rest, weights_LHCM = (x[0, :, 0].astype(jnp.float32) for x in layers["weigh"][0])
    values = [layers["ask"][0][1].values[0, :, 0]]
    if config.carries_window:
        values.insert(0, before.window_values_LBHEW[:, 0].transpose(0, 3, 1, 2))

    def total(weights_LHCJ, values_LJHE):
        return jnp.einsum("lhcj,ljhe->lche", weights_LHCJ, values_LJHE.astype(jnp.float32))

    memory_LCHE = total(weights_LHCM, layers["slots"][0].values_BJHE[0, :, 0])
    rest_LCHE = sum(map(total, rest, values))
    # weights among the slots alone
    weights_LHCM /= jnp.maximum(weights_LHCM.sum(3, keepdims=True), 1e-30)
    scored_11C1 = scored_C[None, None, :, None]
    mass_LM = jnp.where(scored_11C1, weights_LHCM, 0).sum((1, 2)) / config.num_heads
    slots_LHC = jnp.exp(-jax.scipy.special.xlogy(weights_LHCM, weights_LHCM).sum(3))

    def share(axes):
        memory, others = (jnp.sqrt((x**2).sum(axes)) for x in (memory_LCHE, rest_LCHE))
        return memory / jnp.maximum(memory + others, 1e-30)

    def counted(x_LCH):
        return jnp.where(scored_C[None, :, None], x_LCH, 0).sum(1)

    return mass_LM, share((2, 3)), counted(share(3)), counted(slots_LHC.swapaxes(1, 2))


def _write(config: RMATConfig, x_LMD: Array, z_LKD: Array | None) -> Array:
    """Applies a write to numbers of each channel of each slot, M' = concat(M[K:], (1 - z) e)."""
    e_LKD = x_LMD[:, : config.memory.writes]
    kept_LKD = jnp.zeros_like(e_LKD) if z_LKD is None else (1 - z_LKD) * e_LKD
    return jnp.concatenate([x_LMD[:, config.memory.writes :], kept_LKD], axis=1)
