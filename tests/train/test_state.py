"""The state is a value: the same structure in and out, under every option and policy; what must be
float32 is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from rmat_jax.modules.carry import initial_state, merge_rows, split_rows
from tests.models import COVERING, equations, make_params, make_tokens, name, tiny


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype.name), tree)


def after(config, state, length):
    """Shapes of the logits and of the state after `length` more tokens."""
    batch = len(state.document_B)
    return jax.eval_shape(
        lambda params, tokens, state: RMAT(config).apply({"params": params}, tokens, state),
        make_params(config),
        make_tokens(config, batch, length),
        state,
    )


@pytest.mark.parametrize("options", COVERING[::2], ids=name)
def test_out_comes_what_went_in(options):
    config = tiny(**options, dtype="bfloat16")
    for closed, length in ((True, 16), (False, 19)):
        state = initial_state(config, 3, closed=closed)
        assert shapes(after(config, state, length)[1]) == shapes(state)


def test_it_is_a_carry():
    """A jitted loop carries it, open or closed."""
    config = tiny(dtype="float32", window="sliding")
    params = make_params(config)
    for closed, width in ((True, 8), (False, 3)):

        def read(state, tokens_BT):
            logits, state = RMAT(config).apply({"params": params}, tokens_BT, state)
            return state, logits

        tokens = make_tokens(config, 2, 5 * width).reshape(2, 5, width).swapaxes(0, 1)
        state, _ = jax.jit(lambda s, t, read=read: jax.lax.scan(read, s, t))(
            initial_state(config, 2, closed=closed), tokens
        )
        assert (state.ages_BM[:, -1] > 0).all()


def test_the_bfloat16_policy_keeps_float32_where_it_counts():
    config = tiny(dtype="bfloat16", window="sliding", memory_pool="attention")
    params, state = make_params(config), initial_state(config, 2)
    logits, _ = after(config, state, 9)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert logits.dtype == state.layers.slots_BMD.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.layers.open.pool)} == {"float32"}
    assert (
        state.layers.open.keys_BHEC.dtype == state.layers.window_values_BHEW.dtype == jnp.bfloat16
    )


def operand_types(jaxpr, primitive):
    """The types of the operands of every use of a primitive."""
    return [
        tuple(v.aval.dtype.name for v in e.invars)
        for e in equations(jaxpr)
        if e.primitive.name == primitive
    ]


def test_in_the_bfloat16_policy_softmax_and_gates_are_float32_and_products_are_not():
    config = tiny(dtype="bfloat16", memory_pool="attention")
    params, tokens = make_params(config), make_tokens(config, 2, 8)
    state = initial_state(config, 2, closed=True)
    jaxpr = jax.make_jaxpr(lambda p: RMAT(config).apply({"params": p}, tokens, state))(params).jaxpr
    for primitive in ("exp", "logistic", "rsqrt"):
        assert set(operand_types(jaxpr, primitive)) == {("float32",)}, primitive
    products = operand_types(jaxpr, "dot_general")
    # Six products of the gate, the pool's scores and its sum; all others read and multiply
    # bfloat16.
    assert products.count(("float32", "float32")) == 8
    assert set(products) == {("float32", "float32"), ("bfloat16", "bfloat16")}


def test_splitting_rows_keeps_each_row_together():
    config = tiny(dtype="float32", window="sliding")
    state = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(x.size).normal(size=x.shape)),
        initial_state(config, 6),
    )
    for neighbours, rows in ((False, slice(1, None, 3)), (True, slice(2, 4))):
        parts = split_rows(state, 3, neighbours=neighbours)
        jax.tree.map(np.testing.assert_array_equal, merge_rows(parts, neighbours=neighbours), state)
        second = jax.tree.map(lambda x: x[1], parts)
        np.testing.assert_array_equal(second.position_B, state.position_B[rows])
        np.testing.assert_array_equal(second.ages_BM, state.ages_BM[rows])
        np.testing.assert_array_equal(second.layers.slots_BMD, state.layers.slots_BMD[:, rows])
        np.testing.assert_array_equal(
            second.layers.open.keys_BHEC, state.layers.open.keys_BHEC[:, rows]
        )


@pytest.mark.parametrize(("length", "lengths"), [(12, None), (8, np.array([8, 3]))])
def test_a_closed_state_reads_whole_chunks_only(length, lengths):
    config = tiny(dtype="float32")
    with pytest.raises(UserError, match=rf"T={length} .*chunk_len=8.*use initial_state"):
        tokens, state = make_tokens(config, 2, length), initial_state(config, 2, closed=True)
        RMAT(config).apply({"params": make_params(config)}, tokens, state, None, lengths)
