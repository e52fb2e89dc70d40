"""A pool = the plain weighted mean, whatever pieces it was read in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.modules.carry import where_rows
from rmat_jax.ops.pool import accumulate, accumulate_one, empty_pool

pytestmark = pytest.mark.usefixtures("float64")
B, S, K, D = 2, 7, 3, 4
rng = np.random.default_rng(0)
x_BSD, scores_BSK = rng.normal(size=(B, S, D)), rng.normal(scale=20, size=(B, S, K))
mask_BSK = rng.random((B, S, K)) < 0.6
# a mean of nothing
mask_BSK[0, :, 0] = False


def pooled(cuts, scores_BSK=scores_BSK, x_BSD=x_BSD):
    pool = empty_pool(B, K, D, "float64")
    for part in np.split(np.arange(S), cuts):
        pool = accumulate(pool, scores_BSK[:, part], jnp.asarray(mask_BSK[:, part]), x_BSD[:, part])
    return pool.mean_BKD()


def plain(scores_BSK):
    weights = np.exp(scores_BSK) * mask_BSK
    total = weights.sum(1, keepdims=True)
    return np.einsum("bsk,bsd->bkd", weights / np.where(total > 0, total, 1), x_BSD)


@pytest.mark.parametrize("cuts", [[], [1], [3, 5], list(range(1, S))], ids=str)
@pytest.mark.parametrize("scores", [scores_BSK, 0 * scores_BSK], ids=["weighted", "mean"])
def test_any_pieces_give_the_plain_mean(cuts, scores):
    np.testing.assert_allclose(pooled(cuts, scores), plain(scores), rtol=0, atol=1e-12)
    assert (np.asarray(pooled(cuts, scores))[0, 0] == 0).all()


def test_scores_beyond_the_range_of_exp():
    """Only differences count, also where exp of a score would overflow."""
    np.testing.assert_allclose(
        pooled([2], scores_BSK + 5000), plain(scores_BSK), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        pooled([2], scores_BSK - 5000), plain(scores_BSK), rtol=0, atol=1e-10
    )


def test_one_token_at_a_time_is_accumulate_of_its_run():
    """Also after the pool was emptied in some rows, whatever its sums then hold."""
    index_BS = rng.integers(K, size=(B, S))
    counts_BS = rng.random((B, S)) < 0.8
    ours = others = empty_pool(B, K, D, "float64")
    for s in range(S):
        if s == 3:
            emptied_B = jnp.array([True, False])
            others = jax.tree.map(
                functools.partial(where_rows, emptied_B), empty_pool(B, K, D, "float64"), others
            )
            ours = ours.emptied(emptied_B)
            ours = ours.replace(
                sum_BKD=jnp.where(ours.weight_BK[..., None] > 0, ours.sum_BKD, jnp.nan)
            )
        mask_BSK = counts_BS[:, s, None, None] & (index_BS[:, s, None, None] == np.arange(K))
        others = accumulate(others, np.zeros((B, 1, K)), jnp.asarray(mask_BSK), x_BSD[:, s : s + 1])
        ours = accumulate_one(
            ours, jnp.asarray(index_BS[:, s]), jnp.asarray(counts_BS[:, s]), x_BSD[:, s]
        )
        np.testing.assert_allclose(ours.mean_BKD(), others.mean_BKD(), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours.weight_BK, others.weight_BK)
    more = np.zeros((B, 1, K)), jnp.ones((B, 1, K), bool), x_BSD[:, :1]
    # the two may follow each other
    mixed, expected = accumulate(ours, *more), accumulate(others, *more)
    np.testing.assert_allclose(mixed.mean_BKD(), expected.mean_BKD(), rtol=0, atol=1e-12)


def test_gradients_do_not_depend_on_the_pieces():
    def loss(cuts):
        return jax.grad(lambda s, x: jnp.sin(pooled(cuts, s, x)).sum(), argnums=(0, 1))(
            jnp.asarray(scores_BSK), jnp.asarray(x_BSD)
        )

    whole, pieces = loss([]), loss([2, 3])
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)
        assert np.isfinite(a).all() and np.abs(a).max() > 0
        assert not np.abs(a)[0][~mask_BSK[0].any(-1)].any()
