"""Laws 1-3 for sizes that nobody chose: chunk, window, writes, slots, lengths, splits and documents
at random.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.models import make_documents, make_params, make_tokens, stream, tiny

pytestmark = pytest.mark.usefixtures("float64")
B = 2


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def cases(draw):
    """A config, the documents of two lanes, and calls of one width that together read both lanes."""
    chunk_len = draw(st.integers(1, 9))
    writes = draw(st.sampled_from(divisors(chunk_len)))
    config = tiny(
        chunk_len=chunk_len,
        window_len=draw(st.sampled_from(divisors(chunk_len))),
        memory_writes=writes,
        memory_slots=writes + draw(st.integers(0, 4)),
        window=draw(st.sampled_from(("block", "sliding"))),
        gate=draw(st.sampled_from(("evicted", "newest", "none"))),
        memory_pool=draw(st.sampled_from(("mean", "attention"))),
        memory_source=draw(st.sampled_from(("output", "input"))),
        memory_age=draw(st.sampled_from(("none", "rotary", "tokens"))),
        fusion=draw(st.sampled_from(("layer", "joint"))),
    )
    total = draw(st.integers(1, 3 * chunk_len + 2))
    documents = np.stack(
        [make_documents(draw(st.lists(st.integers(1, 12), max_size=5)), total) for _ in range(B)]
    )
    width = draw(st.integers(1, total))
    left, calls = np.full(B, total), []
    while left.any():
        most = np.minimum(width, left)
        lengths = np.array([draw(st.integers(0, int(n))) for n in most])
        if not lengths.any():
            lengths = most
        calls.append((width, lengths))
        left = left - lengths
    return config, documents, calls


@settings(max_examples=20, derandomize=True, deadline=None)
@given(cases())
def test_any_sizes_in_any_pieces_are_the_equations(case):
    config, documents, calls = case
    params, tokens = make_params(config), make_tokens(config, *documents.shape)
    lanes = reference.read(config, params, tokens, documents)
    logits, state = stream(config, params, tokens, documents, calls)
    np.testing.assert_allclose(logits, [lane.logits_TV for lane in lanes], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(state.ages_BM, [lane.ages_M for lane in lanes])
    np.testing.assert_allclose(
        state.memory_LBMD(), np.stack([lane.memory_LMD for lane in lanes], 1), rtol=0, atol=1e-10
    )
