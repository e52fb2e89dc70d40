"""The memory of one layer: a gated first-in-first-out queue of M vectors.

    M' = concat(M[K:], gate(s, e))    s: K entries made of the chunk, e: the K slots about to leave

The queue, its entries and its gates are float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.modules.documents import Border, slot_documents, slot_positions
from rmat_jax.modules.mlp import projection, split_heads
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops.attention import Keys
from rmat_jax.ops.rope import rotate
from rmat_jax.types import Array

Project = Callable[[Array], Array]


class Memory(nn.Module):
    """A queue of M slots, oldest first. `keys` is what a chunk sees of it, `write` the next queue.

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

    def keys(
        self, slots_BMD: Array, ages_BM: Array, document_B: Array, layer: tuple[Project, Project]
    ) -> Keys:
        """The slots as Keys: `M Wk` and `M Wv`, or `LNm(M) Wmk` and `LNm(M) Wmv` of outputs.

        Read jointly, a slot stands where the middle of its tokens stood: its key is rotated there.

        Args:
            slots_BMD: the queue.
            ages_BM: of its slots.
            document_B: that the queue belongs to.
            layer: Wk and Wv of the layer, which inputs are read with.
        """
        c, (key, value) = self.config, layer
        if c.memory.keeps_outputs:
            slots_BMD, key, value = self.read_norm(slots_BMD), self.key, self.value
        keys_BMHE, values_BMHE = split_heads(c, key(slots_BMD)), split_heads(c, value(slots_BMD))
        if c.memory.joint:
            keys_BMHE = rotate(keys_BMHE, slot_positions(c, ages_BM), c.rope_base, c.rope)
        return Keys(keys_BMHE, values_BMHE, slot_documents(ages_BM, document_B))

    def write(self, slots_BMD: Array, kept_BCD: Array, at: Border) -> Array:
        """The queue after a chunk, [B, M, D]; zeros where a slot is unwritten.

        An entry s is the mean of a run of C / K tokens, of those of the chunk's last document.

        Args:
            slots_BMD: the queue before.
            kept_BCD: what the layer keeps of each token of the chunk.
            at: the rules at the chunk's border.
        """
        c = self.config
        kept_BCD = self.write_norm(kept_BCD) if c.memory.keeps_outputs else kept_BCD
        mine_BKR1 = at.mine_BC.reshape(len(kept_BCD), c.memory.writes, c.run_len, 1)
        runs_BKRD = kept_BCD.reshape(*mine_BKR1.shape[:3], c.width)
        s_BKD = jnp.where(mine_BKR1, runs_BKRD, 0).sum(2) / jnp.maximum(mine_BKR1.sum(2), 1)
        queue_BMD = jnp.where(at.ages_BM[..., None] > 0, slots_BMD, 0)
        if c.memory.gated:
            s_BKD = self.gate(s_BKD, queue_BMD[:, : c.memory.writes])
        queue_BMD = jnp.concatenate([queue_BMD[:, c.memory.writes :], s_BKD], axis=1)
        return jnp.where(at.next_ages_BM[..., None] > 0, queue_BMD, 0)


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
