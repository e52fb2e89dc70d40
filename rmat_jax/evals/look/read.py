"""Looks into a model while it reads one text, chunk by chunk: the arrays that `inspect` counts. All
of fixed size.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rmat_jax.config import IGNORE, RMATConfig
from rmat_jax.infer.streams import PREFILL_CHUNKS
from rmat_jax.model import RMAT
from rmat_jax.modules.carry import State, initial_state
from rmat_jax.types import Array, PyTree

# tokens, or one chunk if that is longer
PASSAGE = 512
# instants whose entries are followed at the same time
MARKS = 4
# of the queue: so long an entry is followed
TURNS = 16


@struct.dataclass
class Looking:
    """What is carried from chunk to chunk."""

    memory: State
    # of the same model with its memory emptied before each chunk
    cut: State | None
    # age in chunks of what each channel of a slot holds, weighted by how much is left of it
    content_LMD: Array | None
    # how much of what was written at instant R is left
    marks_RLMD: Array | None


class Seen(NamedTuple):
    """One chunk or, stacked, many. Of queries only those with a target count. None: the model has
    no such thing.
    """

    # nats
    loss_C: Array
    cut_C: Array | None
    # of the slots as they were read, in chunks; 0: unwritten
    ages_M: Array | None
    # mean age of what they held
    content_LM: Array | None
    # attention that they got: sums over queries, means over heads
    mass_LM: Array | None
    # the memory's part of what attention hands on, |memory| / (|memory| + |chunk|)
    share_LC: Array | None
    # the same by head, sum over queries
    share_LH: Array | None
    # slots that a head attends to: exp(entropy) of its weights, sum over queries
    slots_LH: Array | None
    # update gate z, sum over the writes to slots that held something
    open_LD: Array | None
    # the same of each entry, mean over channels
    open_LK: Array | None
    # such writes: 0 or 1 an entry
    writes_K: Array | None
    # how much is left of the marked entries after the chunk's write
    left_RL: Array | None


def begin(config: RMATConfig) -> Looking:
    """Nothing was read."""
    state = initial_state(config, 1, closed=True)
    if not config.has_memory:
        return Looking(state, None, None, None)
    slots = (config.num_layers, config.slots, config.width)
    return Looking(
        state, initial_state(config, 1, closed=True), jnp.zeros(slots), jnp.zeros((MARKS, *slots))
    )


def passage_chunks(config: RMATConfig) -> int:
    """Chunks of a passage."""
    return max(PASSAGE // config.chunk_len, 1)


def horizon(config: RMATConfig) -> int:
    """Chunks for which a mark is followed."""
    return TURNS * -(-config.slots // config.writes)


def mark_ages(config: RMATConfig, first: int, count: int) -> np.ndarray:
    """Chunks since each mark was set, after each of `count` chunks from chunk `first` on, [N, R];
    negative: not yet.
    """
    ages_NR = np.arange(first, first + count)[:, None] - np.arange(MARKS)[None] * (
        horizon(config) // MARKS
    )
    return np.where(ages_NR < 0, -1, ages_NR % horizon(config))


def windows(
    config: RMATConfig, pieces: Iterable[np.ndarray], end: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A document's tokens and targets, whole passages at a time, [N, C] each; the last is padded
    with targets IGNORE.
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
        config: the model's.
        params: its parameters.
        looking: before.
        tokens_NC, targets_NC: of `windows`.
        marked_NR: whether the entries that a chunk writes are marked from then on, for each of
            MARKS.
    """
    model = RMAT(config)

    def score(memory, tokens_C, targets_C):
        arguments = tokens_C[None], targets_C[None], memory
        return model.apply({"params": params}, *arguments, method=RMAT.score, mutable=["gauges"])

    def read(looking, chunk):
        tokens_C, targets_C, marked_R = chunk
        (scores, after), sown = score(looking.memory, tokens_C, targets_C)
        if not config.has_memory:
            return looking.replace(memory=after), Seen(scores.loss_BT[0], *[None] * 11)
        (cut_scores, cut), _ = score(looking.cut.forget(), tokens_C, targets_C)
        gauges, ages_M = sown["gauges"]["layers"], looking.memory.ages_BM[0]
        mass_LM, share_LC, share_LH, slots_LH = _reads(config, gauges, targets_C != IGNORE)
        z_LKD = open_LD = open_LK = writes_K = None
        if config.gate != "none":
            z_LKD = gauges["memory"]["gate"]["openness"][0][0][:, 0]
            writes_K = _gated_against(config, ages_M) > 0
            counted_LKD = jnp.where(writes_K[None, :, None], z_LKD, 0)
            open_LD, open_LK = counted_LKD.sum(1), counted_LKD.mean(2)
        written_1M1 = after.ages_BM[0][None, :, None] > 0
        content_LMD = jnp.where(written_1M1, 1 + _turn(config, looking.content_LMD, z_LKD), 0)
        marks_RLMD = jax.vmap(lambda marks_LMD: _turn(config, marks_LMD, z_LKD))(looking.marks_RLMD)
        newest_M = jnp.arange(config.slots) >= config.slots - config.writes
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
            left_RL=_left(config, marks_RLMD),
        )
        return Looking(after, cut, content_LMD, marks_RLMD), seen

    return jax.lax.scan(read, looking, (tokens_NC, targets_NC, marked_NR))


def _reads(
    config: RMATConfig, gauges: PyTree, scored_C: Array
) -> tuple[Array, Array, Array, Array]:
    """mass_LM, share_LC, share_LH and slots_LH of `Seen`, from what the blocks sowed."""
    weights_LHCM, values_LMHE, out_LCHE = (
        x[0][:, 0].astype(jnp.float32) for x in gauges["read"][0]
    )
    memory_LCHE = jnp.einsum("lhcm,lmhe->lche", weights_LHCM, values_LMHE)
    # among the slots
    weights_LHCM /= jnp.maximum(weights_LHCM.sum(3, keepdims=True), 1e-30)
    scored_11C1 = scored_C[None, None, :, None]
    mass_LM = jnp.where(scored_11C1, weights_LHCM, 0).sum((1, 2)) / config.num_heads
    slots_LHC = jnp.exp(-jax.scipy.special.xlogy(weights_LHCM, weights_LHCM).sum(3))

    rest_LCHE = out_LCHE - memory_LCHE

    def share(axes):
        memory, rest = (jnp.sqrt((x**2).sum(axes)) for x in (memory_LCHE, rest_LCHE))
        return memory / jnp.maximum(memory + rest, 1e-30)

    def total(x_LCH):
        return jnp.where(scored_C[None, :, None], x_LCH, 0).sum(1)

    return mass_LM, share((2, 3)), total(share(3)), total(slots_LHC.swapaxes(1, 2))


def _gated_against(config: RMATConfig, x_M: Array) -> Array:
    """The slots that the gate compares with the new entries."""
    return x_M[: config.writes] if config.gate == "evicted" else x_M[-config.writes :]


def _turn(config: RMATConfig, x_LMD: Array, z_LKD: Array | None) -> Array:
    """What the write keeps of something that each channel of each slot has: M' = concat(M[K:], (1 -
    z) e).
    """
    if z_LKD is None:
        kept_LKD = jnp.zeros_like(x_LMD[:, : config.writes])
    else:
        kept_LKD = (1 - z_LKD) * jax.vmap(lambda x_MD: _gated_against(config, x_MD))(x_LMD)
    return jnp.concatenate([x_LMD[:, config.writes :], kept_LKD], axis=1)


def _left(config: RMATConfig, marks_RLMD: Array) -> Array:
    """Mean over the K marked entries and the channels. Gated against the newest, an entry has
    copies: its best counts.
    """
    writes = config.writes
    # a copy stands a multiple of K slots from its origin
    if config.gate == "newest":
        marks_RLMD = jnp.pad(marks_RLMD, ((0, 0), (0, 0), (-config.slots % writes, 0), (0, 0)))
        marks_RLMD = marks_RLMD.reshape(MARKS, config.num_layers, -1, writes, config.width).max(2)
    return marks_RLMD.sum((2, 3)) / (writes * config.width)
