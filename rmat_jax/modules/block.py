"""One layer of arXiv 2507.00453: hybrid attention, an MLP, and the memory's part of both.

    h  = LN1(x)                                   q, k, v = h Wq, h Wk, h Wv, rotated
    A  = l1 A_full + l2 A_local (+ l3 A_mem)      l = softmax(w)
    x' = x + A Wo                                 y = x' + MLP(LN2(x'))

A block is told what it may see and says what it adds. It holds no state, writes nothing, and knows
no chunk and no stream of tokens: `model.py` and `infer/open_chunk.py` keep those.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.modules.documents import Border, visible
from rmat_jax.modules.dropout import Dropout
from rmat_jax.modules.memory import Memory
from rmat_jax.modules.mlp import MLP, projection, split_heads
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops.attention import Keys, mix_branches, read_values, row_of_scores
from rmat_jax.ops.rope import rotate
from rmat_jax.types import Array


class Block(nn.Module):
    """A layer. `__call__` reads tokens; `slots` and `write` are its memory's, if it has one."""

    config: RMATConfig

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.param_dtype)
        self.attention_norm, self.mlp_norm = layer_norm(c), layer_norm(c)
        self.query, self.key, self.value = (projection(c, c.width) for _ in range(3))
        self.output = projection(c, c.width, residual=True)
        self.mlp, self.dropout = MLP(c), Dropout(c.dropout)
        if len(c.fused) > 1:
            self.fusion = self.param("fusion", nn.initializers.zeros, (len(c.fused),), dtype)
        if c.memory:
            self.memory = Memory(c)
            if c.memory.joint:
                start = nn.initializers.constant(c.memory.key_bias)
                self.memory_bias = self.param("memory_bias", start, (c.num_heads,), dtype)

    def __call__(
        self,
        x_BSD: Array,
        documents_BS: Array,
        positions_BS: Array,
        past: list[Keys],
        slots: Keys | None,
    ) -> tuple[Array, Keys, Array]:
        """Reads tokens of one chunk.

        Args:
            x_BSD: their vectors from the layer below.
            documents_BS: their documents.
            positions_BS: their places, counted from the start of the chunk; B may be 1.
            past: tokens before them: the carried window, the chunk so far.
            slots: the memory's, of `Block.slots`; None: there is no memory.

        Returns:
            y [B, S, D]; the Keys of these tokens; what the memory keeps of each, [B, S, D].
        """
        c = self.config
        h_BSD = self.attention_norm(x_BSD)
        q_BSHE, k_BSHE, v_BSHE = (
            split_heads(c, f(h_BSD)) for f in (self.query, self.key, self.value)
        )
        turned_BSHE, k_BSHE = (
            rotate(x, positions_BS, c.rope_base, c.rope) for x in (q_BSHE, k_BSHE)
        )
        own = Keys(k_BSHE, v_BSHE, documents_BS, positions_BS)
        parts, asked = [*past, own], [turned_BSHE] * (len(past) + 1)
        if slots is not None:
            parts.append(slots)
            # slots in a softmax of their own have no place, so the query has none either
            asked.append(turned_BSHE if c.memory.joint else q_BSHE)
        a_BSHE = read_values(self.weigh(asked, parts, own), parts)
        x_BSD = x_BSD + self.dropout(self.output(a_BSHE.reshape(x_BSD.shape)))
        y_BSD = x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))
        return y_BSD, own, y_BSD if c.memory and c.memory.keeps_outputs else h_BSD

    def weigh(self, asked: list[Array], parts: list[Keys], own: Keys) -> list[Array]:
        """The weight of everything that is seen, [B, H, S, J] for each part: the branches' mixture.

        Args:
            asked: the queries that each part is asked with.
            parts: window, chunk, and last the slots where there is a memory.
            own: the queries' tokens.
        """
        c = self.config
        bias_H = self.memory_bias if c.memory and c.memory.joint else None
        biases = [None if part.positions_BJ is not None else bias_H for part in parts]
        shares = jax.nn.softmax(self.fusion) if len(c.fused) > 1 else jnp.ones(1)
        masks = [
            [visible(c, branch, own.positions_BJ, own.documents_BJ, part) for part in parts]
            for branch in c.fused
        ]
        return mix_branches(row_of_scores(asked, parts, biases), masks, shares)

    def slots(self, slots_BMD: Array, ages_BM: Array, document_B: Array) -> Keys:
        """See `Memory.keys`."""
        return self.memory.keys(slots_BMD, ages_BM, document_B, (self.key, self.value))

    def write(self, slots_BMD: Array, kept_BCD: Array, at: Border) -> Array:
        """See `Memory.write`."""
        return self.memory.write(slots_BMD, kept_BCD, at)
