"""Program size grows neither with a call's chunks nor with the layers: both loops are scans."""

import jax
import jax.numpy as jnp
import pytest

from rmat_jax.infer import open_chunk
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state
from tests.models import equations, make_params, tiny


def size(config, chunks, calls=1):
    """The number of equations of the gradient of `calls` calls."""
    tokens = jnp.zeros((2, chunks * config.chunk_len), jnp.int32)

    def loss(params):
        state, total = initial_state(config, 2), 0.0
        for _ in range(calls):
            scores, state = RMAT(config).apply(
                {"params": params}, tokens, tokens, state, method=RMAT.score
            )
            total += scores.loss_BT.sum()
        return total

    return sum(1 for _ in equations(jax.make_jaxpr(jax.grad(loss))(make_params(config)).jaxpr))


def prompt_size(config, chunks):
    """The number of equations of a prompt's reading."""
    tokens = jnp.zeros((2, chunks * config.chunk_len), jnp.int32)
    state = open_chunk.stack_layers(open_chunk.initial_state(config, 2))

    def read(params):
        return open_chunk.last(config, params, state, tokens)

    return sum(1 for _ in equations(jax.make_jaxpr(read)(make_params(config)).jaxpr))


@pytest.mark.parametrize("size", [size, prompt_size])
def test_as_long_for_many_chunks_and_layers_as_for_few(size):
    few = size(tiny(dtype="float32", num_layers=2), 2)
    assert size(tiny(dtype="float32", num_layers=7), 2) == few
    assert size(tiny(dtype="float32", num_layers=2), 9) == few


def test_control_unrolled_it_grows():
    config = tiny(dtype="float32")
    assert size(config, 2, calls=2) > 1.5 * size(config, 2)
