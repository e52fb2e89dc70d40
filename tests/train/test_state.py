"""The state is a value: the same structure in and out, under every option and policy; what must be
float32 is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rmat_jax.errors import UserError
from rmat_jax.infer import open_chunk
from rmat_jax.model import RMAT
from rmat_jax.modules.state import (
    InsideChunk,
    initial_state,
    merge_rows,
    split_rows,
    where_rows,
)
from tests.models import COVERING, DEFAULT, equations, make_params, make_tokens, name, tiny


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
    state = initial_state(config, 3)
    assert shapes(after(config, state, 16)[1]) == shapes(state)
    opened = open_chunk.stack_layers(open_chunk.initial_state(config, 3))
    params, tokens = make_params(config), make_tokens(config, 3, 19)
    _, later = jax.eval_shape(
        lambda params, state: open_chunk.read(config, params, state, tokens), params, opened
    )
    assert shapes(later) == shapes(opened)


def test_it_is_a_carry():
    """A jitted loop carries it."""
    config = tiny(dtype="float32", **DEFAULT)
    params = make_params(config)

    def read(state, tokens_BT):
        logits, state = RMAT(config).apply({"params": params}, tokens_BT, state)
        return state, logits

    tokens = make_tokens(config, 2, 5 * 8).reshape(2, 5, 8).swapaxes(0, 1)
    state, _ = jax.jit(lambda s, t: jax.lax.scan(read, s, t))(initial_state(config, 2), tokens)
    assert (state.ages_BM[:, -1] > 0).all()


def test_the_bfloat16_policy_keeps_float32_where_it_counts():
    config = tiny(dtype="bfloat16", **DEFAULT)
    params, state = make_params(config), initial_state(config, 2)
    logits, _ = after(config, state, 8)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert logits.dtype == state.slots_LBMD.dtype == jnp.float32
    layer = open_chunk.initial_state(config, 2).layers[0]
    assert layer.kept_BCD.dtype == jnp.float32
    assert layer.keys_BHEC.dtype == state.window_values_LBHEW.dtype == jnp.bfloat16


def operand_types(jaxpr, primitive):
    """The types of the operands of every use of a primitive."""
    return [
        tuple(v.aval.dtype.name for v in e.invars)
        for e in equations(jaxpr)
        if e.primitive.name == primitive
    ]


def test_in_the_bfloat16_policy_softmax_and_gates_are_float32_and_products_are_not():
    config = tiny(dtype="bfloat16")
    params, tokens = make_params(config), make_tokens(config, 2, 8)
    state = initial_state(config, 2)
    jaxpr = jax.make_jaxpr(lambda p: RMAT(config).apply({"params": p}, tokens, state))(params).jaxpr
    for primitive in ("exp", "logistic", "rsqrt"):
        assert set(operand_types(jaxpr, primitive)) == {("float32",)}, primitive
    products = operand_types(jaxpr, "dot_general")
    # Six products of the gate; all others read and multiply bfloat16.
    assert products.count(("float32", "float32")) == 6
    assert set(products) == {("float32", "float32"), ("bfloat16", "bfloat16")}


def filled(config):
    """A state of six rows in which no number comes twice."""
    return jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(x.size).normal(size=x.shape)),
        initial_state(config, 6),
    )


def test_splitting_rows_keeps_each_row_together():
    state = filled(tiny(dtype="float32", **DEFAULT))
    for neighbours, rows in ((False, slice(1, None, 3)), (True, slice(2, 4))):
        parts = split_rows(state, 3, neighbours=neighbours)
        jax.tree.map(np.testing.assert_array_equal, merge_rows(parts, neighbours=neighbours), state)
        second = jax.tree.map(lambda x: x[1], parts)
        np.testing.assert_array_equal(second.ages_BM, state.ages_BM[rows])
        np.testing.assert_array_equal(second.slots_LBMD, state.slots_LBMD[:, rows])
        np.testing.assert_array_equal(second.window_keys_LBHEW, state.window_keys_LBHEW[:, rows])


def test_rows_are_chosen_by_a_mask():
    config = tiny(dtype="float32", **DEFAULT)
    new, old = filled(config), initial_state(config, 6)
    mask = np.arange(6) % 2 == 0
    mixed = where_rows(mask, new, old)
    np.testing.assert_array_equal(mixed.slots_LBMD[:, ::2], new.slots_LBMD[:, ::2])
    np.testing.assert_array_equal(mixed.slots_LBMD[:, 1::2], old.slots_LBMD[:, 1::2])
    np.testing.assert_array_equal(mixed.ages_BM[1::2], old.ages_BM[1::2])


def test_a_call_that_ends_inside_a_chunk_leaves_nothing_to_go_on_from():
    config = tiny(dtype="float32")
    model, variables = RMAT(config), {"params": make_params(config)}
    tokens = make_tokens(config, 2, 16)
    logits, state = model.apply(variables, tokens[:, :12])
    assert isinstance(state, InsideChunk)
    whole, _ = model.apply(variables, tokens)
    np.testing.assert_allclose(logits, whole[:, :12], atol=1e-6)
    with pytest.raises(UserError, match=r"inside a chunk .*chunk_len=8 .*rmat_jax.infer"):
        model.apply(variables, tokens, state)


@pytest.mark.parametrize("length", [1, 8, 13, 40])
def test_init_then_apply_as_flax_documents(length):
    """Nothing but parameters comes out of `init`, whatever the length; `init` computes the logits
    that `apply` does."""
    config = tiny(dtype="float32", **DEFAULT)
    model, tokens = RMAT(config), make_tokens(config, 2, length)
    (logits, _), variables = model.init_with_output(jax.random.key(0), tokens)
    assert list(variables) == ["params"]
    again, _ = model.apply(variables, tokens)
    np.testing.assert_allclose(again, logits, atol=1e-6)


def test_nnx_gives_the_same_logits_bit_for_bit():
    config = tiny(dtype="float32", **DEFAULT)
    tokens = make_tokens(config, 2, 24)
    model = nnx.bridge.ToNNX(RMAT(config), rngs=nnx.Rngs(0)).lazy_init(tokens)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    logits, _ = model(tokens)
    expected, _ = RMAT(config).apply({"params": params}, tokens)
    np.testing.assert_array_equal(logits, expected)
