"""Dropout: its rate and scale, and masks that belong to rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.modules.dropout import Dropout


def drop(x, rate=0.25, seed=0):
    return Dropout(rate, x.shape[1]).apply({}, x, rngs={"dropout": jax.random.key(seed)})


def test_rate_and_scale():
    out = np.asarray(drop(jnp.ones((8, 64, 64))))
    assert set(np.unique(out)) == {np.float32(0), np.float32(4 / 3)}
    # 32,768 draws: a standard deviation of 0.0024.
    assert abs((out == 0).mean() - 0.25) < 0.01


def test_each_row_has_a_mask_of_its_own_whoever_stands_beside_it():
    """linen.Dropout, the control, draws another mask for a row when the batch changes."""
    from flax import linen as nn

    x = jnp.ones((8, 4, 16))
    whole = drop(x)
    np.testing.assert_array_equal(drop(x[:4]), whole[:4])
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(drop(x, seed=1), whole)
    linen = nn.Dropout(0.25, deterministic=False)
    key = {"dropout": jax.random.key(0)}
    assert not np.array_equal(linen.apply({}, x[4:], rngs=key), linen.apply({}, x, rngs=key)[4:])


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_without_a_key_or_a_rate_nothing_is_dropped(rate):
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    out = Dropout(rate, 3).apply({}, x, rngs={"dropout": jax.random.key(0)} if not rate else None)
    np.testing.assert_array_equal(out, x)
    assert Dropout(0.5, 3).apply({}, x, rngs={"dropout": jax.random.key(0)}).dtype == x.dtype


def test_each_chunk_has_a_mask_of_its_own_however_many_are_read_at_once():
    x, key = jnp.ones((2, 12, 16)), {"dropout": jax.random.key(0)}

    def drop_from(first, part):
        return Dropout(0.25, 4).apply({}, part, first, rngs=key)

    whole = drop_from(0, x)
    np.testing.assert_array_equal(drop_from(1, x[:, 4:]), whole[:, 4:])
    assert not np.array_equal(whole[:, :4], whole[:, 4:8])
    # the control
    assert not np.array_equal(drop_from(0, x[:, 4:]), whole[:, 4:])
