"""The model = the equations: every option against an independent forward pass in plain numpy."""

import jax
import numpy as np
import pytest

from tests import reference
from tests.models import (
    COVERING,
    OPTIONS,
    ages_of,
    covering,
    make_documents,
    make_params,
    make_tokens,
    memory_of,
    name,
    reader,
    stream,
    tiny,
)

pytestmark = pytest.mark.usefixtures("float64")
# four chunks, without and with a rest
CLOSED, OPEN = 32, 37


def rows(length):
    """Documents of three lanes: changes in mid-chunk, several in a chunk, at a chunk's border, and
    none at all.
    """
    lanes = [5, 2, 6, 3, 9], [16, 3], []
    return np.stack([make_documents(lengths, length) for lengths in lanes])


def agrees(config, logits, memory, ages):
    length = np.shape(logits)[1]
    tokens = make_tokens(config, 3, length)
    lanes = reference.read(config, make_params(config), tokens, rows(length))
    np.testing.assert_allclose(logits, [lane.logits_TV for lane in lanes], rtol=0, atol=1e-10)
    if config.memory:
        expected = np.stack([lane.memory_LMD for lane in lanes], axis=1)
        np.testing.assert_array_equal(ages, [lane.ages_M for lane in lanes])
        np.testing.assert_allclose(memory, expected, rtol=0, atol=1e-10)
        # something was there to compare
        assert (ages > 0).sum() > 5


@pytest.mark.parametrize("options", COVERING, ids=name)
def test_model_is_its_equations(options):
    config = tiny(**options)
    tokens = make_tokens(config, 3, CLOSED)
    logits, state = reader(config)(make_params(config), tokens, None, rows(CLOSED))
    memory = state.memory_LBMD() if config.memory else None
    agrees(config, logits, memory, state.ages_BM)


@pytest.mark.slow
@pytest.mark.parametrize("options", covering(3, **OPTIONS), ids=name)
def test_model_is_its_equations_with_any_three_options(options):
    """In one call, and in calls of three tokens that end inside a chunk."""
    test_model_is_its_equations(options)
    config = tiny(**options)
    tokens = make_tokens(config, 3, OPEN)
    calls = [(3, None)] * 12 + [(3, np.full(3, 1))]
    logits, state = stream(config, make_params(config), tokens, rows(OPEN), calls)
    agrees(config, logits, *((memory_of(state), ages_of(state)) if config.memory else (None, None)))
    # hundreds of programs do not fit into one process
    jax.clear_caches()
