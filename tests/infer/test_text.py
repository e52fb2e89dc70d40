"""Stop sequences in text that comes in pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmat_jax.errors import UserError
from rmat_jax.infer.text import Stops, as_bytes, completes
from tests.infer.letters import make_engine

TEXT = st.binary(max_size=30).map(lambda data: bytes(b"ab\xff"[x % 3] for x in data))
SEQUENCES = st.lists(TEXT.filter(bool).map(lambda s: s[:4]), max_size=3)


@given(TEXT, SEQUENCES, st.lists(st.integers(1, 5), min_size=30, max_size=30))
def test_pieces_are_cut_before_the_first_sequence(text, sequences, sizes):
    """The pieces are those of a search in the whole text; nothing shown is taken back later."""
    stops, shown, stopped, at = Stops(sequences), b"", False, 0
    for size in sizes:
        piece, stopped = stops.feed(text[at : at + size])
        shown, at = shown + piece, at + size
        if stopped:
            break
    seen = text[:at]
    if not stopped:
        shown += stops.rest()
    ends = [seen.find(s) for s in sequences if s in seen]
    assert stopped == bool(ends)
    assert shown == seen[: min(ends, default=len(seen))]


@given(TEXT, SEQUENCES, st.lists(st.integers(1, 5), min_size=30, max_size=30))
def test_a_row_pauses_wherever_a_sequence_becomes_complete(text, sequences, sizes):
    """If these pieces are the tokens, a row pauses at the one that completes a sequence."""
    at = 0
    for size in sizes:
        token, before = text[at : at + size], text[:at]
        if any(s in before + token for s in sequences):
            assert any(s in before for s in sequences) or completes(sequences, token)
        at += size


def test_pauses_are_few():
    assert not completes([b"ab"], b"a") and completes([b"ab"], b"b") and completes([b"ab"], b"xabx")
    engine = make_engine()
    np.testing.assert_array_equal(np.flatnonzero(engine.pauses_for((b"ab", b"c"))), [1, 2])
    assert not engine.pauses_for(()).any()


def test_text_as_bytes():
    assert as_bytes("gr\xfc\xdfe") == "gr\xfc\xdfe".encode() and as_bytes(b"\xff") == b"\xff"
    # A shell's arguments come so.
    assert as_bytes(b"\xff\xfe".decode("utf-8", "surrogateescape")) == b"\xff\xfe"
    with pytest.raises(UserError, match="give bytes"):
        as_bytes("\ud800")
