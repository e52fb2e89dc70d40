"""One layer of arXiv 2507.00453: hybrid attention, an MLP, and the memory's part of both.

    h  = LN1(x)                                   q, k, v = h Wq, h Wk, h Wv, rotated
    A  = l1 A_full + l2 A_local (+ l3 A_mem)      l = softmax(w)
    x' = x + A Wo                                 y = x' + MLP(LN2(x'))

A block is told what it may see and says what it adds. It holds no state and knows no stream of
tokens: `model.py` and `infer/open_chunk.py` keep those.
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
from rmat_jax import x as X


class Heads(NamedTuple):
    """What tokens ask and what they show, [B, S, H, E] each."""

    # turned by the token's position
    queries: Array
    keys: Array
    # as they are
    plain_queries: Array
    plain_keys: Array
    values: Array


class Block(nn.Module):
    """A layer: `ask`, then `__call__`. `slots` and `write` are its memory's, if it has one."""

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
        """h [B, S, D], and what is made of it.

        Args:
            x_BSD: the tokens' vectors from the layer below.
            positions_BS: their places; B may be 1.
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
        """y, [B, S, D].

        Attention takes each chunk as a row of its own. So the Keys have B times G rows, each of
        S / G queries, where the tokens are those of G chunks.

        Args:
            x_BSD: the tokens' vectors from the layer below.
            heads: of `ask`.
            own: the tokens as they are seen, with their places in their chunks.
            past: tokens before them: the carried window, the chunk so far.
            slots: the memory's; None: there is no memory.
            path: how attention is computed; all but "obvious" take whole chunks.
            first: number of the first chunk, for dropout.
        """
        a_BSHE = self.attend(path, heads, own, past, slots)
        x_BSD = x_BSD + self.dropout(self.output(a_BSHE.reshape(x_BSD.shape)), first)
        return x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)), first)

    def attend(
        self, path: str, heads: Heads, own: Keys, past: list[Keys], slots: Keys | None
    ) -> Array:
        """The mixture of the branches, [B, S, H, E]: by the obvious code, or branch by branch."""
        c, shape = self.config, own.keys_BJHE.shape
        if path == "obvious":
            parts, asked = [*past, own], [heads.queries.reshape(shape)] * (len(past) + 1)
            if slots is not None:
                parts.append(slots)
                # slots in a softmax of their own have no place, so the query has none either
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
        """How a branch is computed, and what `documents.seen` says of it.

        Raises:
            UserError: the path cannot take it.
        """
        c = self.config
        for way in (fastest(c.dtype), "xla") if path == "auto" else (path,):
            keys, band, tile = seen(c, branch, own, past, slots, UNITS[way])
            reason = refusal(way, c.dtype, c.head_dim, (tile, keys.keys_BJHE.shape[1]))
            if not reason:
                return way, keys, band, tile
        raise UserError(f"model.attention={path} {reason} ({branch}); use model.attention=auto")

    def shares(self) -> Array:
        """What each branch counts."""
        return jax.nn.softmax(self.fusion) if len(self.config.fused) > 1 else jnp.ones(1)

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
        masks = [
            [visible(c, branch, own.positions_BJ, own.documents_BJ, part) for part in parts]
            for branch in c.fused
        ]
        shares = self.shares()
        if X.now:
            rows = own.documents_BJ.shape[0]
            many = rows // X.now["reach"].shape[0]
            rep = lambda a: jnp.repeat(a, many)[:, None, None]
            reach, full, local = (rep(X.now[n]) for n in ("reach", "full", "local"))
            for b, name in enumerate(c.fused):
                for i, part in enumerate(parts):
                    if part.positions_BJ is None or masks[b][i] is None:
                        continue
                    gap = own.positions_BJ[:, :, None] - part.positions_BJ[:, None, :]
                    near = gap < reach
                    if name == "full":
                        near &= (gap < 1) | ~full
                    masks[b][i] = masks[b][i] & near
            if "local" in c.fused and len(c.fused) > 1:
                at = c.fused.index("local")
                keep = jnp.stack([jnp.where(local[:, 0, 0], float(b != at), 1.0) for b in range(len(c.fused))])
                shares = shares[:, None] * keep
                shares = (shares / shares.sum(0))[..., None, None, None]
        return mix_branches(row_of_scores(asked, parts, biases), masks, shares)

    def slots(self, line_BJD: Array, owners_GBM: Array, heads: Heads | None = None) -> Keys:
        """The slots that each chunk of a group sees, in a row of its own for each chunk.

        Read jointly, a slot stands where the middle of its tokens stood: its key is turned there.

        Args:
            line_BJD: the slots that the first chunk sees, then the entries that follow them.
            owners_GBM: the document of each slot that each chunk sees.
            heads: of the group's tokens; they stand for entries that are tokens.
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
