"""One layer: hybrid attention, MLP, and its part of the memory's write."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.modules.carry import (
    NOBODY,
    LayerState,
    Piece,
    Reading,
    packed,
    unpacked,
    where_rows,
    without_large,
)
from rmat_jax.modules.dropout import Dropout
from rmat_jax.modules.memory import Memory
from rmat_jax.modules.mlp import MLP, projection
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops.attention import Keys, hybrid_attention
from rmat_jax.ops.pool import Pool
from rmat_jax.ops.rope import rotate
from rmat_jax.types import Array


class Block(nn.Module):
    """x' = x + A(LN1(x)) Wo,  y = x' + MLP(LN2(x')),  M' = write(M, y), or write(M, LN1(x)) with
    `memory_source="input"`.
    """

    config: RMATConfig

    def setup(self):
        c = self.config
        self.attention_norm = layer_norm(c)
        self.query = projection(c, c.width)
        self.key = projection(c, c.width)
        self.value = projection(c, c.width)
        self.output = projection(c, c.width, residual=True)
        shares = (len(c.fused), c.num_heads) if c.fusion == "head" else (len(c.fused),)
        self.fusion = self.param("fusion", nn.initializers.zeros, shares, jnp.dtype(c.param_dtype))
        self.memory_bias = None
        if c.has_memory and c.fusion == "joint":
            start = nn.initializers.constant(c.memory_bias)
            self.memory_bias = self.param(
                "memory_bias", start, (c.num_heads,), jnp.dtype(c.param_dtype)
            )
        self.mlp_norm = layer_norm(c)
        self.mlp = MLP(c)
        self.dropout = Dropout(c.dropout)
        if c.has_memory:
            self.memory = Memory(c)

    def __call__(
        self, x_BSD: Array, state: LayerState, piece: Piece
    ) -> tuple[Array, LayerState | Reading]:
        """Reads a piece of a chunk. A closed state's piece is a whole chunk, which is written at
        once.

        Args:
            x_BSD: the piece's vectors from the layer below.
            state: this layer's.
            piece: positions, documents and ages, the same for all layers.

        Returns:
            [B, S, D], and the state after the chunk; or for an open chunk what it gains: see
            `carry.append` and `close`.
        """
        normed_BSD = self.attention_norm(x_BSD)
        heads = (*x_BSD.shape[:2], self.config.num_heads, self.config.head_dim)
        q_BSHE, k_BSHE, v_BSHE = (
            f(normed_BSD).reshape(heads) for f in (self.query, self.key, self.value)
        )
        rotated_q_BSHE, rotated_k_BSHE = (
            self._rotate(q_BSHE, piece.positions_BS),
            self._rotate(k_BSHE, piece.positions_BS),
        )
        memory = self._memory_keys(state, piece)
        attended_BSHE, weights_BHSM = hybrid_attention(
            rotated_q_BSHE if self.config.memory_age == "tokens" else q_BSHE,
            rotated_q_BSHE,
            piece.positions_BS,
            piece.documents_BS,
            self._chunk_keys(rotated_k_BSHE, v_BSHE, state, piece),
            memory,
            dict(zip(self.config.fused, jax.nn.softmax(self.fusion, axis=0), strict=True)),
            window_len=self.config.window_len,
            window=self.config.window,
            memory_bias_H=self.memory_bias,
        )
        if memory is not None:
            self.sow("gauges", "read", (weights_BHSM, memory.values_BJHE, attended_BSHE))
        x_BSD = x_BSD + self._drop(self.output(attended_BSHE.reshape(x_BSD.shape)))
        y_BSD = x_BSD + self._drop(self.mlp(self.mlp_norm(x_BSD)))
        self.sow("activations", "y", y_BSD)

        pool = self._pool(
            state, piece, y_BSD if self.config.memory_source == "output" else normed_BSD
        )
        if state.open is None:
            state = self._write(state, piece, rotated_k_BSHE, v_BSHE, pool)
            if self.config.has_memory:
                self.sow("activations", "slots", state.slots_BMD)
            return y_BSD, state
        return y_BSD, Reading(rotated_k_BSHE, v_BSHE, pool)

    def close(self, _, state: LayerState, piece: Piece) -> tuple[None, LayerState]:
        """Writes the open chunk of the rows where it is full, after all layers have read the piece.

        What is large and stays as it is, is not returned (`carry.without_large`).
        """
        chunk, keys_BCHE, values_BCHE = state.open, None, None
        if self.config.has_window_carry:
            keys_BCHE, values_BCHE = unpacked(chunk.keys_BHEC), unpacked(chunk.values_BHEC)
        written = self._write(state, piece, keys_BCHE, values_BCHE, chunk.pool)
        if self.config.has_memory:
            memory_keys, memory_values = self._slot_keys(written.slots_BMD, piece.next_ages_BM)
            chunk = chunk.replace(
                pool=chunk.pool.emptied(piece.closes_B),
                memory_keys_BHEM=packed(memory_keys),
                memory_values_BHEM=packed(memory_values),
            )
        written, state = map(without_large, (written.replace(open=chunk), state))
        return None, jax.tree.map(
            lambda new, old: where_rows(piece.closes_B, new, old), written, state
        )

    def _rotate(self, x_BSHE: Array, positions_BS: Array) -> Array:
        return rotate(x_BSHE, positions_BS, self.config.rope_base, self.config.rope)

    def _drop(self, x_BSD: Array) -> Array:
        return self.dropout(x_BSD)

    def _chunk_keys(
        self, keys_BSHE: Array, values_BSHE: Array, state: LayerState, piece: Piece
    ) -> list[Keys]:
        """The carried window, the open chunk so far, and the piece itself. They are read where they
        lie, not joined.
        """
        parts = []
        if self.config.has_window_carry:
            before = jnp.arange(-self.config.window_len, 0)[None]
            window = unpacked(state.window_keys_BHEW), unpacked(state.window_values_BHEW)
            parts.append(Keys(*window, piece.window_documents_BW, before))
        if state.open is not None:
            places = jnp.arange(self.config.chunk_len)[None]
            chunk = unpacked(state.open.keys_BHEC), unpacked(state.open.values_BHEC)
            parts.append(Keys(*chunk, piece.open_documents_BC, places))
        return [*parts, Keys(keys_BSHE, values_BSHE, piece.documents_BS, piece.positions_BS)]

    def _memory_keys(self, state: LayerState, piece: Piece) -> Keys | None:
        if not self.config.has_memory:
            return None
        if state.open is None:
            keys, values = self._slot_keys(state.slots_BMD, piece.read_ages_BM)
        else:
            keys, values = (
                unpacked(state.open.memory_keys_BHEM),
                unpacked(state.open.memory_values_BHEM),
            )
        return Keys(keys, values, piece.memory_documents_BM)

    def _slot_keys(self, slots_BMD: Array, ages_BM: Array) -> tuple[Array, Array]:
        return self.memory.keys_values(slots_BMD, ages_BM, (self.key, self.value))

    def _pool(self, state: LayerState, piece: Piece, y_BSD: Array) -> Pool | None:
        """The running means of the chunk's last document: a new document starts them again."""
        if not self.config.has_memory:
            return None
        pool = None if state.open is None else state.open.pool.emptied(piece.restart_B)
        counts_BS = (piece.documents_BS == piece.last_B[:, None]) & (piece.documents_BS != NOBODY)
        return self.memory.pool(pool, y_BSD, piece.positions_BS, counts_BS)

    def _write(
        self,
        state: LayerState,
        piece: Piece,
        keys_BCHE: Array | None,
        values_BCHE: Array | None,
        pool: Pool | None,
    ) -> LayerState:
        """The layer's state at the chunk's end: the memory written, the last W keys kept for a
        sliding window.
        """
        if self.config.has_memory:
            slots = self.memory.write(state.slots_BMD, pool, piece.ages_BM, piece.next_ages_BM)
            state = state.replace(slots_BMD=slots)
        if self.config.has_window_carry:
            window = self.config.window_len
            # Rotations add up: turned back by C, position C-W..C-1 becomes -W..-1 of the next
            # chunk.
            back = jnp.full((1, window), -self.config.chunk_len)
            state = state.replace(
                window_keys_BHEW=packed(self._rotate(keys_BCHE[:, -window:], back)),
                window_values_BHEW=packed(values_BCHE[:, -window:]),
            )
        return state
