"""The memory of one layer: a gated first-in-first-out queue of M vectors.

    M' = concat(M[K:], gate(s, e))    s: K entries made of the chunk, e: the K slots about to leave

The queue, its entries and its gates are float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.modules.documents import Border
from rmat_jax.modules.mlp import projection, split_heads
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops import context
from rmat_jax.types import Array

Project = Callable[[Array], Array]
# maps the queue before, [B, M, D], and the index of a first entry to all entries from it on
Entries = Callable[[Array, int], Array]
# the turns that one iteration of a scan computes
UNROLL = 8


class Memory(nn.Module):
    """A queue of M slots, oldest first. `keys` makes keys and values of it, `write` the next queue.

    Both take a group of G chunks. The slots and the entries that follow them form one line. The
    first chunk sees the line's first M vectors, and each further chunk the M vectors that start K
    later.

    An age counts the chunks since a slot was written. A slot of age 0 is unwritten; its content
    means nothing and no token sees it.
    """

    config: RMATConfig

    def setup(self):
        c = self.config
        if c.memory.keeps_outputs:
            self.read_norm, self.write_norm = layer_norm(c), layer_norm(c)
            self.key, self.value = projection(c, c.width), projection(c, c.width)
        if c.memory.gated:
            self.gate = {"slot": SlotGate, "gru": GRUGate}[c.memory.gate](c)

    def keys(self, line_BJD: Array, layer: tuple[Project, Project]) -> tuple[Array, Array]:
        """Projects vectors of the line to keys and values, [B, J, H, E] each.

        They are `M Wk` and `M Wv` of inputs, `LNm(M) Wmk` and `LNm(M) Wmv` of outputs.

        Args:
            line_BJD: vectors that the memory keeps.
            layer: Wk and Wv of the layer, for a memory that keeps inputs.
        """
        c, (key, value) = self.config, layer
        if c.memory.keeps_outputs:
            line_BJD, key, value = self.read_norm(line_BJD), self.key, self.value
        return split_heads(c, key(line_BJD)), split_heads(c, value(line_BJD))

    def write(self, slots_BMD: Array, kept_BTD: Array, at: Border) -> tuple[Array, Array]:
        """Writes a group of chunks to the queue. Returns the new queue, and the line.

        An entry s is the mean of a run of C / K tokens; only tokens of the chunk's last document
        count.

        Args:
            slots_BMD: the queue before; where time is divided over devices, the first one's.
            kept_BTD: the layer's input or output at each token of the group.
            at: the rules at the chunks' borders.

        Returns:
            The queue [B, M, D], zeros where a slot is unwritten; the line [B, M + G K, D].
        """
        c, (slots, writes) = self.config, (self.config.memory.slots, self.config.memory.writes)
        kept_BTD = self.write_norm(kept_BTD) if c.memory.keeps_outputs else kept_BTD
        mine_BGKR1 = jnp.moveaxis(at.mine_BC, 0, 1).reshape(len(kept_BTD), -1, writes, c.run_len, 1)
        runs_BGKRD = kept_BTD.reshape(*mine_BGKR1.shape[:4], c.width)
        entries_BGKD = jnp.where(mine_BGKR1, runs_BGKRD, 0).sum(3)
        entries_BGKD /= jnp.maximum(mine_BGKR1.sum(3), 1)
        s_BJD = entries_BGKD.reshape(len(kept_BTD), -1, c.width)
        count = s_BJD.shape[1]

        def as_they_are(queue_BMD, first):
            return s_BJD[:, first:]

        entries = self._gated(s_BJD, slots_BMD, at) if c.memory.gated else as_they_are

        def line(queue_BMD, first=0):
            return jnp.concatenate([queue_BMD, entries(queue_BMD, first)], axis=1)

        def next_queue(line_BJD):
            return jnp.where(at.next_ages_BM[-1, :, :, None] > 0, line_BJD[:, -slots:], 0)

        def hand_on(queue_BMD):
            return next_queue(line(queue_BMD, max(count - slots, 0)))

        # without a gate, a queue depends only on the last devices whose entries fill it
        reach = None if c.memory.gated else -(-slots // count)
        line_BJD = line(context.in_turn(hand_on, slots_BMD, reach))
        return next_queue(line_BJD), line_BJD

    def _gated(self, s_BJD: Array, slots_BMD: Array, at: Border) -> Entries:
        """Returns the entries that the gate makes of s.

        A slot is replaced M / K chunks after it was written. So M / K chunks do not depend on each
        other. They are one turn of the queue, R entries.
        """
        c = self.config.memory
        length, size = s_BJD.shape[1], min(c.slots, s_BJD.shape[1])
        masks = at.ages_BM[:, :, : c.writes] > 0, at.next_ages_BM[:, :, -c.writes :] > 0
        held_BJ, written_BJ = (x.swapaxes(0, 1).reshape(len(s_BJD), -1) for x in masks)
        turns = tuple(_by_turns(x, size) for x in (s_BJD, held_BJ, written_BJ))

        def step(gate, e_BRD, turn):
            s_BRD, held_BR, written_BR = turn
            new_BRD = gate(s_BRD, jnp.where(held_BR[..., None], e_BRD, 0))
            new_BRD = jnp.where(written_BR[..., None], new_BRD, 0)
            return new_BRD, new_BRD

        def one_by_one(queue_BMD, first):
            queue_BRD = queue_BMD[:, :size]
            if len(turns[0]) == 1:
                return step(self.gate, queue_BRD, jax.tree.map(lambda x: x[0], turns))[0][:, first:]
            scan = nn.scan(
                step,
                variable_broadcast="params",
                variable_axes={"intermediates": 0},
                split_rngs={"params": False},
            )
            return _in_line(scan(self.gate, queue_BRD, turns)[1], length)[:, first:]

        if c.gate == "slot" and (len(turns[0]) > 1 or context.parts() > 1):
            return self.gate.over(turns, slots_BMD, length)
        return one_by_one


def _by_turns(x_BJ: Array, size: int) -> Array:
    """Cuts [B, J, ...] into turns, [N, B, R, ...]; zeros fill up the last turn."""
    x_BJ = jnp.pad(x_BJ, ((0, 0), (0, -x_BJ.shape[1] % size)) + ((0, 0),) * (x_BJ.ndim - 2))
    return x_BJ.reshape(len(x_BJ), -1, size, *x_BJ.shape[2:]).swapaxes(0, 1)


def _in_line(x_NBR: Array, length: int) -> Array:
    """The inverse of `_by_turns`, [B, J, ...]."""
    x_BNR = x_NBR.swapaxes(0, 1)
    return x_BNR.reshape(len(x_BNR), -1, *x_BNR.shape[3:])[:, :length]


class SlotGate(nn.Module):
    """A gate of one number z a slot. z can be exactly 0, so that a slot is kept for ever (ours).

    z = clip(1.2 sigmoid(s wz + e uz + bz) - 0.1, 0, 1)
    new = (1 - z) e + z s
    """

    config: RMATConfig

    def setup(self):
        self.wz, self.uz = (_matrix(self, name, self.config.width, 1) for name in ("wz", "uz"))
        self.bz = _vector(self, "bz", 1, self.config.memory.gate_bias)

    def __call__(self, s_BKD: Array, e_BKD: Array) -> Array:
        """The new entries [B, K, D] of what was made of the chunk and the slots about to leave."""
        z_BK1 = self.openness(s_BKD, e_BKD)
        return (1 - z_BK1) * e_BKD + z_BK1 * s_BKD

    def over(self, turns: tuple[Array, Array, Array], slots_BMD: Array, length: int) -> Entries:
        """Computes the entries of all turns at once, equal to one call after the other.

        z depends on a slot e only through the number a = e uz. The entry that replaces e has

            a' = (1 - z) a + z s uz

        So only these numbers are computed turn by turn. Once every z is known, an entry is a
        multiple of the first slot plus a weighted sum over the turns' s.

        Args:
            turns: s [N, B, R, D]; whether the slot that leaves was written, [N, B, R]; whether the
                entry is written, [N, B, R].
            slots_BMD: the queue before; where time is divided over devices, the first one's.
            length: [J] the number of entries.
        """
        s_NBRD, held_NBR, written_NBR = turns
        own_NBR = _times(s_NBRD, self.uz)[..., 0]
        logit_NBR = _times(s_NBRD, self.wz)[..., 0] + self.bz

        def open_turn(a_BR, turn):
            own_BR, logit_BR, held_BR, written_BR = turn
            a_BR = jnp.where(held_BR, a_BR, 0)
            z_BR = self.curve(logit_BR + a_BR)
            a_BR = jnp.where(written_BR, (1 - z_BR) * a_BR + z_BR * own_BR, 0)
            return a_BR, (a_BR, z_BR)

        def numbers(a_BM):
            turns = own_NBR, logit_NBR, held_NBR, written_NBR
            start_BR = a_BM[:, : own_NBR.shape[2]]
            return jax.lax.scan(open_turn, start_BR, turns, unroll=UNROLL)[1]

        def next_numbers(a_BM):
            line_BJ = jnp.concatenate([a_BM, _in_line(numbers(a_BM)[0], length)], axis=1)
            return line_BJ[:, -a_BM.shape[1] :]

        def add_turn(before, turn):
            (share_BR1, sum_BRD), (keep_BR1, new_BRD) = before, turn
            after = keep_BR1 * share_BR1, keep_BR1 * sum_BRD + new_BRD
            return after, after

        a_BM = context.in_turn(next_numbers, _times(slots_BMD, self.uz)[..., 0])
        z_NBR1 = numbers(a_BM)[1][..., None]
        keep_NBR1 = jnp.where((held_NBR & written_NBR)[..., None], 1 - z_NBR1, 0)
        new_NBRD = jnp.where(written_NBR[..., None], z_NBR1 * s_NBRD, 0)
        start = jnp.ones_like(keep_NBR1[0]), jnp.zeros_like(new_NBRD[0])
        parts = jax.lax.scan(add_turn, start, (keep_NBR1, new_NBRD), unroll=UNROLL)[1]

        def entries(queue_BMD, first):
            size = held_NBR.shape[2]
            share_NBR1, sum_NBRD = (x[first // size :] for x in parts)
            e_BRD = jnp.where(held_NBR[0, ..., None], queue_BMD[:, :size], 0)
            made_NBRD = share_NBR1 * e_BRD[None] + sum_NBRD
            return _in_line(made_NBRD, length - first // size * size)[:, first % size :]

        return entries

    def openness(self, s_BKD: Array, e_BKD: Array) -> Array:
        """z, [B, K, 1]."""
        return self.curve(_times(s_BKD, self.wz) + _times(e_BKD, self.uz) + self.bz)

    @staticmethod
    def curve(logits: Array | float) -> Array:
        """z of its logits."""
        return jnp.clip(1.2 * jax.nn.sigmoid(logits) - 0.1, 0, 1)


class GRUGate(nn.Module):
    """The paper's gate: a GRU cell (arXiv 1406.1078) whose state is the slot to be replaced.

    z = sigmoid(s Wz + e Uz + bz)
    r = sigmoid(s Wr + e Ur + br)
    c = tanh(s Wc + (r * e) Uc)
    new = (1 - z) * e + z * c
    """

    config: RMATConfig

    def setup(self):
        width = self.config.width
        self.Wz, self.Uz = (_matrix(self, name, width, width) for name in ("Wz", "Uz"))
        self.Wr, self.Ur = (_matrix(self, name, width, width) for name in ("Wr", "Ur"))
        self.Wc, self.Uc = (_matrix(self, name, width, width) for name in ("Wc", "Uc"))
        self.bz = _vector(self, "bz", width, self.config.memory.gate_bias)
        self.br = _vector(self, "br", width, 0.0)

    def __call__(self, s_BKD: Array, e_BKD: Array) -> Array:
        """The new entries [B, K, D] of what was made of the chunk and the slots about to leave."""
        z_BKD = self.openness(s_BKD, e_BKD)
        r_BKD = jax.nn.sigmoid(_times(s_BKD, self.Wr) + _times(e_BKD, self.Ur) + self.br)
        c_BKD = jnp.tanh(_times(s_BKD, self.Wc) + _times(r_BKD * e_BKD, self.Uc))
        return (1 - z_BKD) * e_BKD + z_BKD * c_BKD

    def openness(self, s_BKD: Array, e_BKD: Array) -> Array:
        """z, [B, K, D]."""
        return self.curve(_times(s_BKD, self.Wz) + _times(e_BKD, self.Uz) + self.bz)

    @staticmethod
    def curve(logits: Array | float) -> Array:
        """z of its logits."""
        return jax.nn.sigmoid(logits)


def _matrix(module: nn.Module, name: str, rows: int, columns: int) -> Array:
    dtype = jnp.dtype(module.config.param_dtype)
    return module.param(name, nn.initializers.lecun_normal(), (rows, columns), dtype)


def _vector(module: nn.Module, name: str, size: int, start: float) -> Array:
    """Makes a bias, [1, 1, size]."""
    dtype = jnp.dtype(module.config.param_dtype)
    return module.param(name, nn.initializers.constant(start), (size,), dtype)[None, None]


def _times(x_BKD: Array, matrix: Array) -> Array:
    # by default accelerators multiply float32 in fewer bits
    return jnp.matmul(x_BKD, matrix, precision="highest")
