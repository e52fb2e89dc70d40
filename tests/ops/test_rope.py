"""Rotary embedding: dot products depend on differences of positions only, and rotations add up."""

import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.ops.rope import rotate

pytestmark = pytest.mark.usefixtures("float64")
H, E, BASE = 2, 4, 10_000.0
q, k = np.random.default_rng(0).normal(size=(2, 1, 1, H, E))


def at(x, position, mode="per_head"):
    return np.asarray(rotate(jnp.asarray(x), jnp.full((1, 1), position), BASE, mode))


@pytest.mark.parametrize("mode", ["per_head", "global"])
def test_each_head_sees_only_the_difference(mode):
    def score(i, j):
        return np.einsum("bshe,bshe->h", at(q, i, mode), at(k, j, mode))

    np.testing.assert_allclose(score(9, 4), score(5, 0), atol=1e-12)
    np.testing.assert_allclose(score(-3, -8), score(5, 0), atol=1e-12)
    assert (np.abs(score(9, 4) - score(9, 3)) > 1e-3).all()
    assert (np.abs(score(9, 4) - score(4, 9)) > 1e-3).all()


def test_global_is_the_rotation_of_the_whole_vector_before_the_split():
    """RoFormer's pairs, neighbours in the D-wide vector; which of a head's components are
    neighbours is only a name.
    """

    # [.., E], halves paired -> [.., D], neighbours paired
    def neighbours(x):
        return np.stack(np.split(x, 2, -1), -1).reshape(-1)

    pairs = (
        neighbours(q).reshape(-1, 2)
        @ (1, 1j)
        * np.exp(7j * BASE ** (-np.arange(H * E / 2) / (H * E / 2)))
    )
    np.testing.assert_allclose(
        neighbours(at(q, 7, "global")).reshape(-1, 2) @ (1, 1j), pairs, atol=1e-12
    )
    assert np.abs(at(q, 7, "global") - at(q, 7)).max() > 1e-2


def test_it_is_a_turn_in_the_complex_plane():
    z = (q[..., :2] + 1j * q[..., 2:]) * np.exp(1j * 5 * np.array([1.0, BASE ** (-2 / E)]))
    np.testing.assert_allclose(at(q, 5), np.concatenate([z.real, z.imag], -1), atol=1e-12)


@pytest.mark.parametrize("mode", ["per_head", "global", "none"])
def test_turns_add_up_and_keep_length(mode):
    np.testing.assert_allclose(at(at(q, 11, mode), -8, mode), at(q, 3, mode), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(at(q, 11, mode)), np.linalg.norm(q), rtol=1e-12)
    np.testing.assert_array_equal(at(q, 0, mode), q)


def test_bfloat16_vectors_are_turned_by_float32_angles():
    """Position 1000 and 1001 are the same number in bfloat16."""
    x = jnp.asarray(q, jnp.bfloat16)
    near, far = (rotate(x, jnp.full((1, 1), p), BASE, "per_head") for p in (1000, 1001))
    assert near.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        near.astype(np.float64), at(np.asarray(x, np.float64), 1000), rtol=0, atol=2**-6
    )
    assert np.abs((near - far).astype(np.float64)).max() > 0.1


@pytest.mark.parametrize("place", [-1, -0.5, -300, 1, 511, 513, 5000])
def test_float32_angles_are_exact_on_both_sides_of_0(place):
    """Slots and windows stand just before 0."""
    x = jnp.asarray(q, jnp.float32)
    found = rotate(x, jnp.full((1, 1), place), BASE, "per_head")
    # angles up to 512, rounded to 24 bits
    error = np.abs(np.asarray(found, np.float64) - at(np.asarray(x, np.float64), place)).max()
    assert error < 512 * 2**-23
    if abs(place) <= 1:
        assert error < 1e-6
