"""The memory of one layer: a gated first-in-first-out queue of M vectors."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.modules.dropout import row_keys
from rmat_jax.modules.mlp import projection
from rmat_jax.modules.norms import layer_norm
from rmat_jax.ops.pool import Pool, accumulate, accumulate_one, empty_pool, mean_of_runs
from rmat_jax.ops.rope import rotate
from rmat_jax.types import Array


class Memory(nn.Module):
    """Reads, pools and writes the queue `slots_BMD`, whose oldest entries come first. Slots, pools
    and gates are float32.

    A slot's age is the number of chunks since it was written; 0 stands for an unwritten slot, whose
    content means nothing.
    """

    config: RMATConfig

    def setup(self):
        c = self.config
        if c.memory_source == "output":
            self.read_norm = layer_norm(c)
            self.write_norm = layer_norm(c)
            self.key = projection(c, c.width)
            self.value = projection(c, c.width)
        if c.memory_pool == "attention":
            self.pool_queries = self.param(
                "pool_queries",
                nn.initializers.normal(1.0),
                (c.writes, c.width),
                jnp.dtype(c.param_dtype),
            )
        if c.gate != "none":
            self.gate = Gate(c)

    def keys_values(
        self, slots_BMD: Array, ages_BM: Array, layer: tuple[nn.Module, nn.Module]
    ) -> tuple[Array, Array]:
        """LNm(M) Wmk and LNm(M) Wmv, or with `memory_source="input"` M Wk and M Wv, split into
        heads: two of [B, M, H, E].

        With `memory_age="rotary"` a key is rotated by minus its age: it stands that many chunks
        before the query. With "tokens" it stands where the middle of the tokens was that it was
        written from; -1 is the token before the chunk.

        Args:
            slots_BMD: the memory.
            ages_BM: chunks since each slot was written.
            layer: Wk and Wv of the layer.
        """
        c = self.config
        key, value = layer
        if c.memory_source == "output":
            slots_BMD, key, value = self.read_norm(slots_BMD), self.key, self.value
        shape = (*slots_BMD.shape[:2], c.num_heads, c.head_dim)
        keys, values = key(slots_BMD).reshape(shape), value(slots_BMD).reshape(shape)
        if c.memory_age == "rotary":
            keys = rotate(keys, -ages_BM, c.rope_base, "per_head")
        elif c.memory_age == "tokens":
            run_M = (jnp.arange(c.slots) - c.slots) % c.writes
            middle_M = (
                (run_M + 0.5) * c.run_len - 0.5
                if c.memory_pool == "mean"
                else jnp.full(c.slots, (c.chunk_len - 1) / 2)
            )
            keys = rotate(keys, middle_M[None] - ages_BM * c.chunk_len, c.rope_base, c.rope)
        return keys, values

    def pool(self, pool: Pool | None, y_BSD: Array, positions_BS: Array, mask_BS: Array) -> Pool:
        """The K means s after S more tokens of the chunk; `pool=None`: of a whole chunk.

        `y` is what the memory keeps, the layer's output or its normalised input; LNw is for outputs
        alone. Entry k is the mean of LNw(y) over the tokens of run k (C/K tokens), or with
        `memory_pool="attention"` over the whole chunk, weighted by softmax(u_k LNw(y)^T / sqrt(D))
        with a learned query u_k. Where `mask` is false a token does not count.
        """
        c = self.config
        normed_BSD = self.write_norm(y_BSD) if c.memory_source == "output" else y_BSD
        if pool is None and c.memory_pool == "mean":
            return mean_of_runs(normed_BSD, mask_BS, c.writes)
        if y_BSD.shape[1] == 1 and c.memory_pool == "mean":
            return accumulate_one(
                pool, positions_BS[:, 0] // c.run_len, mask_BS[:, 0], normed_BSD[:, 0]
            )
        if pool is None:
            pool = empty_pool(y_BSD.shape[0], c.writes, c.width, c.param_dtype)
        if c.memory_pool == "attention":
            scores_BSK = (
                jnp.einsum("bsd,kd->bsk", normed_BSD, self.pool_queries, precision="highest")
                * c.width**-0.5
            )
            mask_BSK = mask_BS[..., None]
        else:
            scores_BSK = jnp.zeros((*mask_BS.shape, c.writes), normed_BSD.dtype)
            mask_BSK = mask_BS[..., None] & jax.nn.one_hot(
                positions_BS // c.run_len, c.writes, dtype=bool
            )
        return accumulate(pool, scores_BSK, mask_BSK, normed_BSD)

    def write(self, slots_BMD: Array, pool: Pool, ages_BM: Array, next_ages_BM: Array) -> Array:
        """M' = concat(M[K:], gate(s, e)).

        Args:
            slots_BMD: the queue before.
            pool: the K means s of the chunk.
            ages_BM: ages before the write.
            next_ages_BM: ages after it; slots that are unwritten then are returned as zeros.
        """
        writes = self.config.writes
        queue_BMD = jnp.where(ages_BM[..., None] > 0, slots_BMD, 0)
        new_BKD = pool.mean_BKD()
        if self.config.gate == "evicted":
            new_BKD = self.gate(new_BKD, queue_BMD[:, :writes])
        elif self.config.gate == "newest":
            new_BKD = self.gate(new_BKD, queue_BMD[:, -writes:])
        queue_BMD = jnp.concatenate([queue_BMD[:, writes:], new_BKD], axis=1)
        return jnp.where(next_ages_BM[..., None] > 0, queue_BMD, 0)


def openness(logits: Array | float, curve: str) -> Array:
    """sigmoid(logits), which never opens or shuts in full; or with curve="clipped" clip(1.2
    sigmoid(logits) - 0.1, 0, 1).
    """
    z = jax.nn.sigmoid(logits)
    return jnp.clip(1.2 * z - 0.1, 0, 1) if curve == "clipped" else z


class Gate(nn.Module):
    """A GRU cell (arXiv 1406.1078) whose state is the slot `e` that the new entry `s` replaces.

    z = sigmoid(s Wz + e Uz + bz)          with gate_scope="slot" one number, from columns wz and uz; else one for each channel
                                           with gate_curve="clipped" wider, and clipped: see
                                           `openness`
    r = sigmoid(s Wr + e Ur + br)
    c = tanh(s Wc + (r * e) Uc)            with gate_form="blend": s, without r
    new = (1 - z) * e + z * c

    With `gate_noise`, training adds as much Gaussian noise inside z's sigmoid: only a gate that is
    shut by a wide margin then keeps a slot, and without the noise it keeps it for long.
    """

    config: RMATConfig

    @nn.compact
    def __call__(self, s_BKD: Array, e_BKD: Array) -> Array:
        dtype = jnp.dtype(self.config.param_dtype)
        width = self.config.width

        def bias(name, start, size=width):
            return self.param(name, nn.initializers.constant(start), (size,), dtype)[None, None]

        # float32 in fact: accelerators would multiply in fewer bits
        def times(x_BKD, name, size=width):
            weights = self.param(name, nn.initializers.lecun_normal(), (width, size), dtype)
            return jnp.matmul(x_BKD, weights, precision="highest")

        w, u, size = ("wz", "uz", 1) if self.config.gate_scope == "slot" else ("Wz", "Uz", width)
        logits_BKZ = (
            times(s_BKD, w, size) + times(e_BKD, u, size) + bias("bz", self.config.gate_bias, size)
        )
        if self.config.gate_noise and self.has_rng("dropout"):
            keys_B = row_keys(self.make_rng("dropout"), len(logits_BKZ))
            noise_BKZ = jax.vmap(lambda key: jax.random.normal(key, logits_BKZ.shape[1:], dtype))(
                keys_B
            )
            logits_BKZ += self.config.gate_noise * noise_BKZ
        z = openness(logits_BKZ, self.config.gate_curve)
        c = s_BKD
        if self.config.gate_form == "gru":
            r = jax.nn.sigmoid(times(s_BKD, "Wr") + times(e_BKD, "Ur") + bias("br", 0.0))
            c = jnp.tanh(times(s_BKD, "Wc") + times(r * e_BKD, "Uc"))
        self.sow("gauges", "openness", jnp.broadcast_to(z, s_BKD.shape))
        return (1 - z) * e_BKD + z * c
