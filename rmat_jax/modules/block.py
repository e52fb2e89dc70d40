"""One layer of arXiv 2507.00453: hybrid attention, an MLP, and a memory.

    h  = LN1(x)                                   q, k, v = h Wq, h Wk, h Wv, rotated
    A  = l1 A_full + l2 A_local (+ l3 A_mem)      l = softmax(w)
    x' = x + A Wo                                 y = x' + MLP(LN2(x'))

A block gets the keys that its tokens may see, and returns new vectors. It holds no state:
`model.py` and `infer/open_chunk.py` carry the state of a stream from call to call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.modules.documents import Border, seen, slot_positions, visible
from rmat_jax.modules.dropout import Dropout
from rmat_jax.modules.memory import Memory
from rmat_jax.modules.mlp import MLP, projection, split_heads
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops.attention import Keys, mix_branches, pieces, read_values, row_of_scores
from rmat_jax.ops.fused import UNITS, Band, attend, fastest, refusal
from rmat_jax.ops.rope import rotate
from rmat_jax.types import Array


class Heads(NamedTuple):
    """Queries, keys and values of tokens, [B, S, H, E] each."""

    # rotated by the token's position
    queries: Array
    keys: Array
    # not rotated
    plain_queries: Array
    plain_keys: Array
    values: Array


class Block(nn.Module):
    """A layer: `ask`, then `__call__`. `slots` and `write` read and write its memory, if any."""

    config: RMATConfig

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.param_dtype)
        self.attention_norm, self.mlp_norm = layer_norm(c), layer_norm(c)
        self.query, self.key, self.value = (projection(c, c.width) for _ in range(3))
        self.output = projection(c, c.width, residual=True)
        self.mlp, self.dropout = MLP(c), Dropout(c.dropout, c.chunk_len)
        if len(c.fused) > 1:
            self.fusion = self.param("fusion", nn.initializers.zeros, (len(c.fused),), dtype)
        if c.memory:
            self.memory = Memory(c)
            if c.memory.joint:
                start = nn.initializers.constant(c.memory.key_bias)
                self.memory_bias = self.param("memory_bias", start, (c.num_heads,), dtype)

    def ask(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Heads]:
        """Returns h [B, S, D], and its queries, keys and values.

        Args:
            x_BSD: the tokens' vectors from the layer below.
            positions_BS: their positions; B may be 1.
        """
        c = self.config
        h_BSD = self.attention_norm(x_BSD)
        q_BSHE, k_BSHE, v_BSHE = (
            split_heads(c, f(h_BSD)) for f in (self.query, self.key, self.value)
        )
        turned = (rotate(x, positions_BS, c.rope_base, c.rope) for x in (q_BSHE, k_BSHE))
        return h_BSD, Heads(*turned, q_BSHE, k_BSHE, v_BSHE)

    def __call__(
        self,
        x_BSD: Array,
        heads: Heads,
        own: Keys,
        past: list[Keys],
        slots: Keys | None,
        path: str = "obvious",
        first: Array | int = 0,
    ) -> Array:
        """Returns y, [B, S, D].

        Attention takes each chunk as a separate row. So for tokens of G chunks the Keys have B G
        rows, each for S / G queries.

        Args:
            x_BSD: the tokens' vectors from the layer below.
            heads: the result of `ask`.
            own: the tokens' keys and values, with their positions in their chunks.
            past: the tokens before them: the carried window, the chunk so far.
            slots: the slots of the memory; None: there is no memory.
            path: how attention is computed; all but "obvious" take whole chunks.
            first: index of the first chunk, for dropout.
        """
        a_BSHE = self.attend(path, heads, own, past, slots)
        x_BSD = x_BSD + self.dropout(self.output(a_BSHE.reshape(x_BSD.shape)), first)
        return x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)), first)

    def attend(
        self, path: str, heads: Heads, own: Keys, past: list[Keys], slots: Keys | None
    ) -> Array:
        """Mixes the branches, [B, S, H, E], by the obvious code or branch by branch."""
        c, shape = self.config, own.keys_BJHE.shape
        if path == "obvious":
            parts, asked = [*past, own], [heads.queries.reshape(shape)] * (len(past) + 1)
            if slots is not None:
                parts.append(slots)
                # slots with their own softmax have no position, so the query has none either
                queries = heads.queries if c.memory.joint else heads.plain_queries
                asked.append(queries.reshape(shape))
            return read_values(self.weigh(asked, parts, own), parts)
        mixture = 0.0
        for branch, share in zip(c.fused, self.shares(), strict=True):
            way, keys, band, tile = self._seen(path, branch, own, past, slots)
            queries = heads.plain_queries if branch == "memory" else heads.queries
            found = attend(
                way,
                band,
                queries.reshape(-1, tile, *shape[2:]),
                *keys[:2],
                self.memory_bias if band.slots and c.memory.joint else None,
                own.documents_BJ.reshape(-1, tile),
                keys.documents_BJ,
            )
            mixture += share * found.reshape(queries.shape)
        return mixture.astype(heads.values.dtype)

    def _seen(
        self, path: str, branch: str, own: Keys, past: list[Keys], slots: Keys | None
    ) -> tuple[str, Keys, Band, int]:
        """Returns the path that computes a branch, and the results of `documents.seen` for it.

        Raises:
            UserError: the path cannot compute the branch.
        """
        c = self.config
        for way in (fastest(c.dtype), "xla") if path == "auto" else (path,):
            keys, band, tile = seen(c, branch, own, past, slots, UNITS[way])
            reason = refusal(way, c.dtype, c.head_dim, (tile, keys.keys_BJHE.shape[1]))
            if not reason:
                return way, keys, band, tile
        raise UserError(f"model.attention={path} {reason} ({branch}); use model.attention=auto")

    def shares(self) -> Array:
        """Returns the weight of each branch; they add up to 1."""
        return jax.nn.softmax(self.fusion) if len(self.config.fused) > 1 else jnp.ones(1)

    def weigh(self, asked: list[Array], parts: list[Keys], own: Keys) -> list[Array]:
        """Returns the attention weights over each part, [B, H, S, J], mixed over the branches.

        Args:
            asked: the queries for each part.
            parts: window, chunk, and last the slots where there is a memory.
            own: the tokens of the queries.
        """
        c = self.config
        bias_H = self.memory_bias if c.memory and c.memory.joint else None
        biases = [None if part.positions_BJ is not None else bias_H for part in parts]
        masks = [
            [visible(c, branch, own.positions_BJ, own.documents_BJ, part) for part in parts]
            for branch in c.fused
        ]
        return mix_branches(row_of_scores(asked, parts, biases), masks, self.shares())

    def slots(self, line_BJD: Array, owners_GBM: Array, heads: Heads | None = None) -> Keys:
        """Returns the slots that each chunk of a group sees, one row for each chunk.

        Where slots are read jointly, a slot's key is rotated to the middle of its run of tokens.

        Args:
            line_BJD: the slots that the first chunk sees, then the entries that follow them.
            owners_GBM: the document of each slot that each chunk sees.
            heads: of the group's tokens; used for entries that are single tokens' inputs.
        """
        c, (chunks, _, size) = self.config, owners_GBM.shape
        writes = c.memory.writes
        length = size + (chunks - 1) * writes
        if heads is not None and c.memory.keeps_tokens(c.chunk_len):
            keys, values = self.memory.keys(line_BJD[:, :size], (self.key, self.value))
            keys = jnp.concatenate([keys, heads.plain_keys], axis=1)[:, :length]
            values = jnp.concatenate([values, heads.values], axis=1)[:, :length]
        else:
            keys, values = self.memory.keys(line_BJD[:, :length], (self.key, self.value))
        if c.memory.joint:
            keys = rotate(keys, slot_positions(c, chunks), c.rope_base, c.rope)
        owners_BM = owners_GBM.swapaxes(0, 1).reshape(-1, size)
        return Keys(*(pieces(x, size, writes, chunks) for x in (keys, values)), owners_BM)

    def write(self, slots_BMD: Array, kept_BSD: Array, at: Border) -> tuple[Array, Array]:
        """See `Memory.write`."""
        return self.memory.write(slots_BMD, kept_BSD, at)
