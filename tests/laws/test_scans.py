"""Program size grows neither with the chunks of a call nor with the layers: both loops are scans."""

import jax
import jax.numpy as jnp
import pytest

from rmat_jax.model import RMAT
from rmat_jax.modules.carry import initial_state
from tests.models import equations, make_params, tiny


def size(config, chunks, closed, calls=1):
    """The number of equations of the gradient of `calls` calls."""
    tokens = jnp.zeros((2, chunks * config.chunk_len), jnp.int32)

    def loss(params):
        state, total = initial_state(config, 2, closed=closed), 0.0
        for _ in range(calls):
            scores, state = RMAT(config).apply(
                {"params": params}, tokens, tokens, state, method=RMAT.score
            )
            total += scores.loss_BT.sum()
        return total

    return sum(1 for _ in equations(jax.make_jaxpr(jax.grad(loss))(make_params(config)).jaxpr))


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_as_long_for_many_chunks_and_layers_as_for_few(closed):
    few = size(tiny(dtype="float32", num_layers=2), 2, closed)
    assert size(tiny(dtype="float32", num_layers=7), 2, closed) == few
    assert size(tiny(dtype="float32", num_layers=2), 9, closed) == few


def test_control_unrolled_it_grows():
    config = tiny(dtype="float32")
    assert size(config, 2, True, calls=2) > 1.5 * size(config, 2, True)
