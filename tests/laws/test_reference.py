"""The model = the equations: every option against an independent forward pass in plain numpy."""

import jax
import numpy as np
import pytest

from tests import reference
from tests.models import (
    COVERING,
    OPTIONS,
    covering,
    make_documents,
    make_params,
    make_tokens,
    name,
    reader,
    stream,
    tiny,
)

pytestmark = pytest.mark.usefixtures("float64")
# three chunks and a rest
T = 29


def rows():
    """Documents of three lanes: changes in mid-chunk, several in a chunk, at a chunk's border, and
    none at all.
    """
    return np.stack([make_documents(lengths, T) for lengths in ([5, 2, 6, 3, 9], [16, 3], [])])


def agrees(config, logits, state):
    lanes = reference.read(config, make_params(config), make_tokens(config, 3, T), rows())
    np.testing.assert_allclose(logits, [lane.logits_TV for lane in lanes], rtol=0, atol=1e-10)
    if config.has_memory:
        memory = np.stack([lane.memory_LMD for lane in lanes], axis=1)
        np.testing.assert_array_equal(state.ages_BM, [lane.ages_M for lane in lanes])
        np.testing.assert_allclose(state.memory_LBMD(), memory, rtol=0, atol=1e-10)
        # something was there to compare
        assert (state.ages_BM > 0).sum() > 5


@pytest.mark.parametrize("options", COVERING, ids=name)
def test_model_is_its_equations(options):
    config = tiny(**options)
    agrees(config, *reader(config)(make_params(config), make_tokens(config, 3, T), None, rows()))


@pytest.mark.slow
@pytest.mark.parametrize("options", covering(3, **OPTIONS), ids=name)
def test_model_is_its_equations_with_any_three_options(options):
    """In one call, and in calls of three tokens."""
    config = tiny(**options)
    params, tokens = make_params(config), make_tokens(config, 3, T)
    agrees(config, *reader(config)(params, tokens, None, rows()))
    calls = [(3, None)] * 9 + [(3, np.full(3, 2))]
    agrees(config, *stream(config, params, tokens, rows(), calls))
    # hundreds of programs do not fit into one process
    jax.clear_caches()
