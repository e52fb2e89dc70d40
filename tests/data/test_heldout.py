"""Held-out text is read once, at most as much as asked for, and its bytes are counted exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmat_jax.config import IGNORE
from rmat_jax.data.corpus import build_corpus
from rmat_jax.data.heldout import HeldoutLanes
from rmat_jax.data.lanes import FIELDS
from rmat_jax.data.tokenizer import BPETokenizer, ByteTokenizer
from rmat_jax.errors import UserError

END = 256
LENGTHS = [30, 5, 80, 1, 12, 44]


def make(corpus, batch_size=2, length=16, eval_tokens=10_000):
    return HeldoutLanes(corpus, batch_size, length, eval_tokens, ByteTokenizer())


def stream(lanes):
    # a sequence: iteration ends by itself
    batches = list(lanes)
    assert len(batches) == len(lanes)
    return {name: np.concatenate([batch[name] for batch in batches], axis=1) for name in FIELDS}


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(4, 400),
)
@settings(max_examples=50, deadline=None)
def test_scored_targets_are_the_texts_and_bytes_that_are_reported(
    corpus_of, random_documents, lengths, batch_size, length, eval_tokens
):
    documents = random_documents(lengths)
    lanes = make(corpus_of(documents), batch_size, length, eval_tokens)
    got = stream(lanes)
    scored = got["targets"] != IGNORE
    assert 0 < scored.sum() <= eval_tokens
    by_row = b"".join(bytes(row[(row != IGNORE) & (row != END)].tolist()) for row in got["targets"])
    assert by_row == b"".join(lanes.texts())
    assert lanes.num_bytes == (scored & (got["targets"] != END)).sum()
    # a row's share holds everything
    if eval_tokens >= batch_size * (sum(lengths) + len(lengths)):
        assert sorted(lanes.texts()) == sorted(documents)
        assert lanes.num_bytes == sum(lengths)


def test_uniform_model_scores_the_logarithm_of_its_vocabulary(corpus_of, random_documents):
    lanes = make(corpus_of(random_documents(LENGTHS)))
    nats = (stream(lanes)["targets"] != IGNORE).sum() * math.log(257)
    assert nats / math.log(2) / lanes.num_bytes == pytest.approx(math.log2(257) * (172 + 6) / 172)


def test_bytes_of_byte_pairs_are_those_of_the_text_also_where_it_is_cut(tmp_path):
    documents = [b"the cat sat on the mat, " * n for n in (10, 50, 3)]
    tokenizer = BPETokenizer.train(iter(documents), 300)
    corpus = build_corpus(lambda: iter(documents), tokenizer, tmp_path, "heldout", "cats")
    lanes = HeldoutLanes(corpus, 2, 8, 10_000, tokenizer)
    assert lanes.num_bytes == sum(map(len, documents)) > 3 * corpus.num_tokens
    cut = HeldoutLanes(corpus, 2, 8, 40, tokenizer)
    text, other = cut.texts()
    assert documents[0].startswith(text) and documents[1].startswith(other)
    targets = stream(cut)["targets"]
    assert (
        cut.num_bytes == len(text) + len(other) == len(tokenizer.decode(targets[targets != IGNORE]))
    )


def test_rows_begin_with_different_documents_and_tell_them_apart(corpus_of, random_documents):
    documents = random_documents(LENGTHS)
    got = stream(make(corpus_of(documents)))
    for row in range(2):
        texts = bytes(got["tokens"][row][got["tokens"][row] != END].tolist())
        assert texts == b"".join(documents[row::2])
        scored = got["targets"][row] != IGNORE
        begins = got["tokens"][row][scored] == END
        np.testing.assert_array_equal(np.diff(got["documents"][row][scored]) != 0, begins[1:])
        np.testing.assert_array_equal(got["offsets"][row][scored] == 0, begins)


def test_padding_is_unscored_and_a_document_of_its_own(corpus_of, random_documents):
    got = stream(make(corpus_of(random_documents([50, 5])), batch_size=3))
    assert got["tokens"].shape == (3, 64)
    for row, total in enumerate((51, 6, 0)):
        assert (got["targets"][row, total:] == IGNORE).all() and (
            got["targets"][row, :total] != IGNORE
        ).all()
        assert (got["tokens"][row, total:] == END).all()
        assert (got["documents"][row, :total] == 0).all() and len(
            set(got["documents"][row, total:])
        ) == 1
        assert got["documents"][row, total] == (total > 0)
        np.testing.assert_array_equal(got["offsets"][row, total:], np.arange(64 - total))


def test_long_document_fills_all_rows_with_different_parts(corpus_of, random_documents):
    (document,) = random_documents([1000])
    lanes = make(corpus_of([document]), batch_size=4, eval_tokens=400)
    assert b"".join(lanes.texts()) == document[:400]
    assert [len(text) for text in lanes.texts()] == [100] * 4


def test_budget_below_a_token_a_row_is_refused(corpus_of, random_documents):
    corpus = corpus_of(random_documents(LENGTHS))
    assert len(make(corpus, batch_size=8, eval_tokens=8)) == 1
    with pytest.raises(UserError, match="eval_tokens=7 must be at least eval_batch_size=8"):
        make(corpus, batch_size=8, eval_tokens=7)
