"""Hybrid attention = three attentions, each written plainly, weighted and added; its softmax
survives having nothing to do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.modules.documents import visible
from rmat_jax.ops.attention import Keys, mix_branches, read_values, row_of_scores
from tests.models import tiny

B, S, H, E, M, W = 2, 6, 2, 4, 3, 2
rng = np.random.default_rng(0)


def naive(q, k, v, seen):
    """One query [H, E] over the keys [J, H, E] that it sees, a head at a time."""
    out = np.zeros((H, E))
    for h in range(H):
        if any(seen):
            # sqrt(E) = 2
            weights = np.array([np.exp(q[h] @ k[j, h] / 2) * seen[j] for j in range(len(k))])
            out[h] = weights / weights.sum() @ v[:, h]
    return out


def locally(sliding, i, j):
    return 0 <= i - j < W if sliding else i // W == j // W


def masked_softmax(scores, mask):
    """One branch over a row of one query and one head."""
    return mix_branches([scores[:, None, None]], [[mask[:, None]]], [1.0])[0][:, 0, 0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sliding", [False, True])
def test_three_separate_attentions(sliding):
    """Two documents in row 0; padding at the end of row 1; carried keys before the chunk for the
    sliding window.
    """
    carried = W if sliding else 0
    J = carried + S
    q, rotated_q = rng.normal(size=(2, B, S, H, E))
    k, v = rng.normal(size=(2, B, J, H, E))
    slot_k, slot_v = rng.normal(size=(2, B, M, H, E))
    documents = np.array([[4, 4, 4, 9, 9, 9], [7, 7, 7, 7, -1, -1]])
    before = np.array([[-1, 4], [7, 7]])[:, :carried]
    owners = np.array([[4, -1, 4], [-1, -1, -1]])
    key_documents = np.concatenate([before, documents], 1)
    positions, key_positions = np.arange(S)[None], np.arange(-carried, S)[None]
    config = tiny(**{"local.window": W, "local.sliding": sliding})
    parts = [Keys(k, v, key_documents, key_positions), Keys(slot_k, slot_v, owners)]
    masks = [
        [visible(config, b, positions, documents, part) for part in parts] for b in config.fused
    ]
    weights = mix_branches(row_of_scores([rotated_q, q], parts, [None] * 2), masks, [0.5, 0.2, 0.3])
    out = read_values(weights, parts)
    for b in range(B):
        for i in range(S):
            if documents[b, i] < 0:
                continue
            same = key_documents[b] == documents[b, i]
            place = np.arange(-carried, S)
            full = [same[j] and 0 <= place[j] <= i for j in range(J)]
            local = [same[j] and place[j] <= i and locally(sliding, i, place[j]) for j in range(J)]
            expected = (
                0.5 * naive(rotated_q[b, i], k[b], v[b], full)
                + 0.2 * naive(rotated_q[b, i], k[b], v[b], local)
                + 0.3 * naive(q[b, i], slot_k[b], slot_v[b], owners[b] == documents[b, i])
            )
            np.testing.assert_allclose(out[b, i], expected, rtol=0, atol=1e-12)


def test_softmax_with_nothing_to_attend_to_is_zero_and_so_is_its_gradient():
    scores = jnp.array([[1.0, 2.0, 3.0], [4.0, -5.0, 1e30]])
    mask = jnp.array([[False, False, False], [True, True, False]])
    weights, gradient = jax.value_and_grad(
        lambda s: (masked_softmax(s, mask) * jnp.arange(3.0)[None]).sum()
    )(scores)
    np.testing.assert_array_equal(masked_softmax(scores, mask)[0], 0)
    np.testing.assert_allclose(
        masked_softmax(scores, mask)[1, :2], jax.nn.softmax(scores[1, :2]), rtol=1e-6
    )
    assert np.isfinite(weights) and np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[0], 0)
    assert gradient[1, 2] == 0 and gradient[1, 0] != 0


def test_softmax_survives_large_scores():
    scores = jnp.array([[3e38, -3e38, 0.0]])
    np.testing.assert_array_equal(
        masked_softmax(scores, jnp.array([[True, True, True]])), [[1, 0, 0]]
    )


def test_scores_and_sums_are_float32_for_bfloat16_inputs():
    """4096 equal weights: a bfloat16 sum would stop growing at 256."""
    J = 4096
    ones = jnp.ones((1, J, 1, E), jnp.bfloat16)
    keys = Keys(0 * ones, ones, jnp.zeros((1, J), int), jnp.zeros((1, J), int))
    row = row_of_scores([ones[:, :1]], [keys], [None])
    out = read_values(mix_branches(row, [[jnp.ones((1, 1, J), bool)]], [1.0]), [keys])
    assert row[0].dtype == jnp.float32
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1, rtol=2**-8)
