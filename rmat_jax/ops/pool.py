"""Weighted means that are read in pieces: an online softmax (arXiv 1805.02867)."""

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.types import Array


@struct.dataclass
class Pool:
    """K running means over tokens, `sum_s exp(score_s) x_s / sum_s exp(score_s)`, in float32.

    A plain mean is the case of equal scores. `peak` is the largest score so far: sums are kept relative to it.
    """

    peak_BK: Array
    weight_BK: Array  # 0: no token yet
    sum_BKD: Array

    def mean_BKD(self) -> Array:
        """The means; zero where there was no token."""
        return self.sum_BKD / jnp.where(self.weight_BK > 0, self.weight_BK, 1)[..., None]


def empty_pool(batch: int, writes: int, width: int, dtype: str) -> Pool:
    peak = jnp.full((batch, writes), jnp.finfo(dtype).min, dtype)
    return Pool(peak, jnp.zeros((batch, writes), dtype), jnp.zeros((batch, writes, width), dtype))


def accumulate(pool: Pool, scores_BSK: Array, mask_BSK: Array, x_BSD: Array) -> Pool:
    """The pool after S more tokens; where `mask` is false a token takes no part in that mean."""
    scores_BSK = jnp.where(mask_BSK, scores_BSK, jnp.finfo(scores_BSK.dtype).min)
    # The mean does not depend on the peak, so no gradient needs to flow through it.
    peak_BK = jax.lax.stop_gradient(jnp.maximum(pool.peak_BK, scores_BSK.max(1)))
    shrink_BK = jnp.exp(pool.peak_BK - peak_BK)
    weights_BSK = jnp.where(mask_BSK, jnp.exp(scores_BSK - peak_BK[:, None]), 0)
    return Pool(
        peak_BK,
        pool.weight_BK * shrink_BK + weights_BSK.sum(1),
        pool.sum_BKD * shrink_BK[..., None] + jnp.einsum("bsk,bsd->bkd", weights_BSK, x_BSD, precision="highest"),
    )


def mean_of_runs(x_BCD: Array, mask_BC: Array, writes: int) -> Pool:
    """What `accumulate` makes of an empty pool and a whole chunk, whose K equal runs have a plain mean each."""
    batch, length, width = x_BCD.shape
    mask_BKR1 = mask_BC.reshape(batch, writes, length // writes, 1)
    x_BKRD = jnp.where(mask_BKR1, x_BCD.reshape(*mask_BKR1.shape[:3], width), 0)
    weight_BK = mask_BKR1.sum((2, 3)).astype(x_BCD.dtype)
    return Pool(jnp.where(weight_BK > 0, 0, jnp.finfo(x_BCD.dtype).min), weight_BK, x_BKRD.sum(2))
