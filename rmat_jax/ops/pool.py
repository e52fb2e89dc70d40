"""Weighted means that are read in pieces: an online softmax (arXiv 1805.02867)."""

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.types import Array


@struct.dataclass
class Pool:
    """K running means over tokens, `sum_s exp(score_s) x_s / sum_s exp(score_s)`, in float32.

    A plain mean is the case of equal scores. `peak` is the largest score so far: sums are kept
    relative to it.
    """

    peak_BK: Array
    # 0: no token yet
    weight_BK: Array
    # where the weight is 0 it means nothing
    sum_BKD: Array

    def emptied(self, rows_B: Array) -> "Pool":
        """Without any token in the rows where the mask holds. The sums stay as they are: they are
        large.
        """
        peak_BK = jnp.where(rows_B[:, None], jnp.finfo(self.peak_BK.dtype).min, self.peak_BK)
        return self.replace(
            peak_BK=peak_BK, weight_BK=jnp.where(rows_B[:, None], 0, self.weight_BK)
        )

    def mean_BKD(self) -> Array:
        """The means; zero where there was no token."""
        some_BK1 = self.weight_BK[..., None] > 0
        return jnp.where(some_BK1, self.sum_BKD, 0) / jnp.where(
            some_BK1, self.weight_BK[..., None], 1
        )


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
    sum_BKD = jnp.where(pool.weight_BK[..., None] > 0, pool.sum_BKD * shrink_BK[..., None], 0)
    return Pool(
        peak_BK,
        pool.weight_BK * shrink_BK + weights_BSK.sum(1),
        sum_BKD + jnp.einsum("bsk,bsd->bkd", weights_BSK, x_BSD, precision="highest"),
    )


def accumulate_one(pool: Pool, index_B: Array, mask_B: Array, x_BD: Array) -> Pool:
    """`accumulate` of one token a row, which counts for the plain mean at its index alone. Nothing
    else is touched.
    """
    rows_B = jnp.arange(len(index_B))
    old_B, sum_BD = (x.at[rows_B, index_B].get(mode="clip") for x in (pool.weight_BK, pool.sum_BKD))
    # beyond the last: dropped
    at = rows_B, jnp.where(mask_B, index_B, pool.weight_BK.shape[1])
    return Pool(
        pool.peak_BK.at[at].set(0, mode="drop"),
        pool.weight_BK.at[at].set(old_B + 1, mode="drop"),
        pool.sum_BKD.at[at].set(jnp.where(old_B[:, None] > 0, sum_BD, 0) + x_BD, mode="drop"),
    )


def mean_of_runs(x_BCD: Array, mask_BC: Array, writes: int) -> Pool:
    """What `accumulate` makes of an empty pool and a whole chunk, whose K equal runs have a plain
    mean each.
    """
    batch, length, width = x_BCD.shape
    mask_BKR1 = mask_BC.reshape(batch, writes, length // writes, 1)
    x_BKRD = jnp.where(mask_BKR1, x_BCD.reshape(*mask_BKR1.shape[:3], width), 0)
    weight_BK = mask_BKR1.sum((2, 3)).astype(x_BCD.dtype)
    return Pool(jnp.where(weight_BK > 0, 0, jnp.finfo(x_BCD.dtype).min), weight_BK, x_BKRD.sum(2))
