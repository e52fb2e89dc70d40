"""Law 2, streaming = one pass: however a stream is cut into calls, the logits and what is
remembered stay the same.
"""

import jax
import numpy as np
import pytest

from rmat_jax.infer import open_chunk
from rmat_jax.infer.open_chunk import OpenState
from rmat_jax.modules.state import initial_state
from tests import reference
from tests.models import (
    COVERING,
    DEFAULT,
    assert_same,
    facts,
    make_documents,
    make_params,
    make_tokens,
    memory_of,
    name,
    open_reader,
    reader,
    stream,
    tiny,
)

pytestmark = pytest.mark.usefixtures("float64")
# T: three chunks and a rest
B, C, T = 3, 8, 29
TOLERANCE = 1e-10
EXAMPLE = tiny(**DEFAULT)


def rows():
    """Three lanes: several documents in a chunk, a document that covers whole chunks and ends at a
    border, one without end.
    """
    return np.stack([make_documents(lengths, T) for lengths in ([3, 2, 9, 4, 1], [16, 3], [])])


def odd_calls(width, seed=0):
    """Calls that read 0..width tokens of each row, until all have read T; a row that was ahead
    waits.
    """
    rng, left, calls = np.random.default_rng(seed), np.full(B, T), []
    while left.any():
        lengths = np.minimum(rng.integers(width + 1, size=B), left)
        calls.append((width, lengths))
        left = left - lengths
    return calls


PREFILL = np.array([16, 3, 11])
MIXTURES = {
    "token by token": [(1, np.ones(B, int))] * T,
    "ragged prefill, then decode": [(T, PREFILL)]
    + [(1, (PREFILL + step < T).astype(int)) for step in range(T - PREFILL.min())],
    "odd lengths": odd_calls(5),
}


def one_pass(config, documents, order=np.s_[:]):
    params, tokens = make_params(config), make_tokens(config, B, T)[order]
    documents = None if documents is None else documents[order]
    state = open_chunk.initial_state(config, B)
    return open_reader(config)(params, tokens, state, documents, np.full(B, T))


@pytest.mark.parametrize("options", COVERING, ids=name)
def test_any_mixture_of_calls_is_one_pass(options):
    """The pass is the model's own; all mixtures are read through the buffers of an open chunk."""
    config = tiny(**options)
    params, tokens, documents = make_params(config), make_tokens(config, B, T), rows()
    logits, _ = reader(config)(params, tokens, None, documents)
    opened, state = one_pass(config, documents)
    np.testing.assert_allclose(opened, logits, rtol=0, atol=TOLERANCE)
    for label, calls in MIXTURES.items():
        streamed, last = stream(config, params, tokens, documents, calls)
        np.testing.assert_allclose(streamed, logits, rtol=0, atol=TOLERANCE, err_msg=label)
        assert_same(facts(config, last), facts(config, state), TOLERANCE)


@pytest.mark.parametrize("options", COVERING, ids=name)
def test_closed_states_are_one_pass(options):
    """The model itself: whole chunks, a chunk a call or all in one call."""
    config, whole = tiny(**options), T // C * C
    params, tokens, documents = (
        make_params(config),
        make_tokens(config, B, T)[:, :whole],
        rows()[:, :whole],
    )
    closed = initial_state(config, B)
    lanes = reference.read(config, params, tokens, documents)
    for calls in ([(C, None)] * 3, [(whole, None)])[: 2 if options == COVERING[0] else 1]:
        streamed, last = stream(config, params, tokens, documents, calls, closed)
        np.testing.assert_allclose(
            streamed, [lane.logits_TV for lane in lanes], rtol=0, atol=TOLERANCE
        )
        if config.memory:
            memory = np.stack([lane.memory_LMD for lane in lanes], 1)
            np.testing.assert_allclose(last.memory_LBMD(), memory, rtol=0, atol=TOLERANCE)


def test_calls_may_leave_out_documents_and_lengths():
    """Each row then goes on with its own document, and reads the whole width, which may cross the
    chunk's border.
    """
    params, tokens = make_params(EXAMPLE), make_tokens(EXAMPLE, B, T)
    logits, state = one_pass(EXAMPLE, None)
    streamed, last = stream(
        EXAMPLE, params, tokens, None, [(width, None) for width in (6, 1, 6, 1, 1, 8, 6)]
    )
    np.testing.assert_allclose(streamed, logits, rtol=0, atol=TOLERANCE)
    assert_same(facts(EXAMPLE, last), facts(EXAMPLE, state), TOLERANCE)
    named = np.tile(np.array([[5], [6], [7]]), (1, 6))
    fresh = open_chunk.initial_state(EXAMPLE, B)
    _, state = open_reader(EXAMPLE)(params, tokens[:, :6], fresh, named)
    goes_on, state = open_reader(EXAMPLE)(params, tokens[:, 6:12], state)
    np.testing.assert_allclose(goes_on, logits[:, 6:12], rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(state.document_B, named[:, 0])


def cold(state):
    return open_chunk.initial_state(EXAMPLE, B)


def without_window(state: OpenState):
    return state.replace(window_documents_BW=np.full_like(state.window_documents_BW, -1))


def without_open_chunk(state: OpenState):
    return state.replace(documents_BC=np.full_like(state.documents_BC, -1))


CUTS = {
    "cold": cold,
    "memory": OpenState.forget,
    "window": without_window,
    "open chunk": without_open_chunk,
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_control_each_part_of_the_state_is_needed(cut):
    """Streaming loses against one pass as soon as one part of the state is dropped between two
    calls.
    """
    params, tokens = make_params(EXAMPLE), make_tokens(EXAMPLE, B, T)
    logits, _ = one_pass(EXAMPLE, None)
    streamed, _ = stream(EXAMPLE, params, tokens, None, [(9, None), (T - 9, None)], between=cut)
    np.testing.assert_allclose(streamed[:, :8], logits[:, :8], rtol=0, atol=TOLERANCE)
    assert np.abs(streamed - logits)[:, 9:].max() > 1e-3


def test_rows_do_not_touch_each_other():
    """A row's logits are its own: the lanes of a batch may be sorted in any way."""
    documents = rows()
    logits, _ = one_pass(EXAMPLE, documents)
    turned, _ = one_pass(EXAMPLE, documents, np.s_[::-1])
    np.testing.assert_allclose(turned[::-1], logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_is_the_only_difference(dtype):
    """In the short policies streaming is as near to the exact answer as one pass is: both only
    round, in another order.

    A rounding changes a number of size 1 by half an epsilon; some tens of them, of either sign,
    stand behind a logit.
    """
    config = tiny(dtype=dtype, **DEFAULT)
    params, tokens, documents = make_params(config), make_tokens(config, B, T), rows()
    lanes = reference.read(config, jax.tree.map(np.float64, params), tokens, documents)
    exact = np.stack([lane.logits_TV for lane in lanes])
    logits, state = one_pass(config, documents)
    rounding, epsilon = np.abs(logits - exact).max(), float(jax.numpy.finfo(dtype).eps)
    assert 0 < rounding < 8 * epsilon
    for label, calls in MIXTURES.items():
        streamed, last = stream(config, params, tokens, documents, calls)
        assert np.abs(streamed - exact).max() < 2 * rounding, label
        assert np.abs(memory_of(last) - memory_of(state)).max() < 8 * epsilon, label
    forgotten, _ = stream(
        config, params, tokens, documents, [(1, None)] * T, between=OpenState.forget
    )
    assert np.abs(forgotten - exact).max() > 8 * epsilon
