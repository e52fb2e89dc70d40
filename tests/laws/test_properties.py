"""Laws 1-3 for sizes that nobody chose: chunk, window, writes, slots, lengths, splits and documents
at random.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.models import (
    ages_of,
    make_documents,
    make_params,
    make_tokens,
    memory_of,
    stream,
    tiny,
)

pytestmark = pytest.mark.usefixtures("float64")
B = 2


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def cases(draw):
    """A config, the documents of two lanes, and calls of one width that read both lanes."""
    chunk_len = draw(st.integers(1, 9))
    writes = draw(st.sampled_from(divisors(chunk_len)))
    sliding = draw(st.booleans())
    windows = st.integers(1, 12) if sliding else st.sampled_from(divisors(chunk_len))
    config = tiny(
        **{
            "chunk_len": chunk_len,
            "local.window": draw(windows),
            "local.sliding": sliding,
            "memory.writes": writes,
            "memory.slots": writes * draw(st.integers(1, 3)),
            "memory.gate": draw(st.sampled_from(("gru", "slot", "none"))),
            "memory.keeps": draw(st.sampled_from(("outputs", "inputs"))),
            "memory.read": draw(st.sampled_from(("stream", "joint"))),
        }
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
    np.testing.assert_array_equal(ages_of(state), [lane.ages_M for lane in lanes])
    np.testing.assert_allclose(
        memory_of(state), np.stack([lane.memory_LMD for lane in lanes], 1), rtol=0, atol=1e-10
    )
