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
from rmat_jax.types import Array

Project = Callable[[Array], Array]


class Memory(nn.Module):
    """A queue of M slots, oldest first. `keys` is what chunks see of it, `write` the next queue.

    Both take a group of G chunks. The slots and the entries that follow them make one line: the
    first chunk sees its first M vectors, each further chunk those that stand K further on.

    An age counts the chunks since a slot was written. A slot of age 0 is unwritten; its content
    means nothing and nobody sees it.
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
        """Keys and values of vectors of the line: `M Wk` and `M Wv`, [B, J, H, E] each.

        Of outputs they are `LNm(M) Wmk` and `LNm(M) Wmv`.

        Args:
            line_BJD: vectors that the memory keeps.
            layer: Wk and Wv of the layer, which inputs are read with.
        """
        c, (key, value) = self.config, layer
        if c.memory.keeps_outputs:
            line_BJD, key, value = self.read_norm(line_BJD), self.key, self.value
        return split_heads(c, key(line_BJD)), split_heads(c, value(line_BJD))

    def write(self, slots_BMD: Array, kept_BTD: Array, at: Border) -> tuple[Array, Array]:
        """The queue after a group of chunks, and the line that the group's chunks see.

        An entry s is the mean of a run of C / K tokens, of those of the chunk's last document.

        Args:
            slots_BMD: the queue before.
            kept_BTD: what the layer keeps of each token of the group.
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
        if c.memory.gated:
            entries_BGKD = self._gated(slots_BMD, entries_BGKD, at)
        entries_BJD = entries_BGKD.reshape(len(kept_BTD), -1, c.width)
        line_BJD = jnp.concatenate([slots_BMD, entries_BJD], axis=1)
        queue_BMD = jnp.where(at.next_ages_BM[-1, :, :, None] > 0, line_BJD[:, -slots:], 0)
        return queue_BMD, line_BJD

    def _gated(self, slots_BMD: Array, s_BGKD: Array, at: Border) -> Array:
        """The entries [B, G, K, D] that the gate makes of s and of the slots that they replace.

        A slot is replaced M / K chunks after it was written. So as many chunks do not depend on
        each other, and one step of the scan takes them.
        """
        c, writes = self.config.memory, self.config.memory.writes
        batch, chunks, _, width = s_BGKD.shape
        held_BGK = jnp.moveaxis(at.ages_BM[:, :, :writes] > 0, 0, 1)
        written_BGK = jnp.moveaxis(at.next_ages_BM[:, :, -writes:] > 0, 0, 1)
        turn = min(c.slots // writes, chunks)
        rest = -chunks % turn

        def turns(x_BGK):
            """By steps of the scan, [G / turn, B, turn K, ...]."""
            x_BGK = jnp.pad(x_BGK, ((0, 0), (0, rest)) + ((0, 0),) * (x_BGK.ndim - 2))
            x_BGK = x_BGK.reshape(batch, -1, turn * writes, *x_BGK.shape[3:])
            return jnp.moveaxis(x_BGK, 1, 0)

        def step(gate, queue_BJD, x):
            s_BJD, held_BJ, written_BJ = x
            new_BJD = gate(s_BJD, jnp.where(held_BJ[..., None], queue_BJD, 0))
            new_BJD = jnp.where(written_BJ[..., None], new_BJD, 0)
            return new_BJD, new_BJD

        xs = jax.tree.map(turns, (s_BGKD, held_BGK, written_BGK))
        queue_BJD = slots_BMD[:, : turn * writes]
        if chunks == turn:
            new_BJD = step(self.gate, queue_BJD, jax.tree.map(lambda x: x[0], xs))[0]
        else:
            _, new_NBJD = nn.scan(
                step,
                variable_broadcast="params",
                variable_axes={"intermediates": 0},
                split_rngs={"params": False},
            )(self.gate, queue_BJD, xs)
            new_BJD = jnp.moveaxis(new_NBJD, 0, 1)
        return new_BJD.reshape(batch, chunks + rest, writes, width)[:, :chunks]


class SlotGate(nn.Module):
    """One number a slot, which can be exactly 0, so that a slot can be kept for ever (our choice).

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

    def openness(self, s_BKD: Array, e_BKD: Array) -> Array:
        """z, [B, K, 1]."""
        return self.curve(_times(s_BKD, self.wz) + _times(e_BKD, self.uz) + self.bz)

    @staticmethod
    def curve(logits: Array | float) -> Array:
        """z of its logits."""
        return jnp.clip(1.2 * jax.nn.sigmoid(logits) - 0.1, 0, 1)


class GRUGate(nn.Module):
    """A GRU cell (arXiv 1406.1078) whose state is the slot that the new entry replaces: the paper.

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
    """A bias as [1, 1, size]."""
    dtype = jnp.dtype(module.config.param_dtype)
    return module.param(name, nn.initializers.constant(start), (size,), dtype)[None, None]


def _times(x_BKD: Array, matrix: Array) -> Array:
    # in float32 in fact: accelerators would multiply in fewer bits
    return jnp.matmul(x_BKD, matrix, precision="highest")
