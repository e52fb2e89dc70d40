"""Lanes: every token once a pass, in an order that seed, lane and pass decide, from any step, on
any process.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmat_jax.data.corpus import Corpus
from rmat_jax.data.lanes import FIELDS, Lanes, cut, deal
from rmat_jax.errors import UserError

END = 256
LENGTHS = [3, 40, 7, 19, 1, 25, 60, 11, 5, 33, 14, 28]

corpora = st.lists(st.integers(1, 80), min_size=1, max_size=25)


def numbered(lengths):
    """A corpus whose tokens are all different: token = its place."""
    starts = np.cumsum([0] + [length + 1 for length in lengths])
    return Corpus(np.arange(starts[-1] + 1), starts, sum(lengths), digest="")


def stream(lanes, steps, start=0):
    """Each field of `steps` batches laid end to end, [rows, steps * T]."""
    batches = [lanes[step] for step in range(start, start + steps)]
    return {name: np.concatenate([batch[name] for batch in batches], axis=1) for name in FIELDS}


def assert_equal(left, right):
    for name in FIELDS:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def passes(lanes, count):
    """For each row, `count` passes over its lane as lists of tokens, told by the first token that
    comes again.
    """
    rows = []
    for row in stream(lanes, 60)["tokens"].tolist():
        period = len(set(row))
        assert len(row) >= period * count
        rows.append([row[i * period : (i + 1) * period] for i in range(count)])
    return rows


@given(corpora, st.integers(1, 4), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_each_pass_reads_every_token_once_over_all_lanes(lengths, batch_size, length, seed):
    corpus = numbered(lengths)
    try:
        lanes = Lanes(corpus, batch_size, length, seed)
    except UserError:
        return
    rows = stream(lanes, 2 * corpus.num_tokens // length + 2)["tokens"].tolist()
    seen = []
    for row in rows:
        period = len(set(row))
        # so it did begin again
        assert len(row) > period
        assert set(row[:period]) == set(row[period : 2 * period]) or len(row) < 2 * period
        seen += row[:period]
    assert sorted(seen) == list(range(corpus.num_tokens))


def test_lanes_go_on_where_the_step_before_stopped(corpus_of, random_documents):
    corpus = corpus_of(random_documents(LENGTHS))
    whole = stream(Lanes(corpus, 2, 60, seed=0), 4)
    assert_equal(whole, stream(Lanes(corpus, 2, 12, seed=0), 20))
    assert_equal(whole, stream(Lanes(corpus, 2, 1, seed=0), 240))
    assert (whole["tokens"] != stream(Lanes(corpus, 2, 12, seed=0), 20, start=1)["tokens"]).any()


def test_any_step_is_what_a_run_from_the_start_reads_there(corpus_of, random_documents):
    corpus = corpus_of(random_documents(LENGTHS))
    run, far = Lanes(corpus, 3, 16, seed=5), 10**9
    before = [run[step] for step in range(40)]
    assert_equal(Lanes(corpus, 3, 16, seed=5)[33], before[33])
    assert_equal(Lanes(corpus, 3, 16, seed=5)[far], run[far])
    assert (before[32]["tokens"] != before[33]["tokens"]).any()


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_together_read_the_global_batch(corpus_of, random_documents, processes):
    corpus = corpus_of(random_documents(LENGTHS))
    share = 6 // processes
    parts = [
        Lanes(corpus, 6, 16, seed=1, rows=range(p * share, (p + 1) * share))
        for p in range(processes)
    ]
    for step in (0, 7, 50):
        batches = [part[step] for part in parts]
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in FIELDS}
        assert_equal(joined, Lanes(corpus, 6, 16, seed=1)[step])
        assert (batches[0]["tokens"] != batches[1]["tokens"]).any()


def test_order_depends_on_seed_and_pass(corpus_of):
    corpus = numbered(LENGTHS)
    first, again, other = (passes(Lanes(corpus, 2, 60, seed=seed), 2) for seed in (0, 0, 1))
    assert first == again != other
    for row in first:
        assert row[0] != row[1] and sorted(row[0]) == sorted(row[1])


def test_documents_stay_whole_and_their_fields_tell_them_apart(corpus_of, random_documents):
    documents = random_documents(LENGTHS)
    row = {
        name: values[0]
        for name, values in stream(Lanes(corpus_of(documents), 1, 50, seed=0), 10).items()
    }
    begins = row["tokens"] == END
    np.testing.assert_array_equal(begins[1:], np.diff(row["documents"]) != 0)
    np.testing.assert_array_equal(begins, row["offsets"] == 0)
    assert set(np.diff(row["documents"])) == {0, 1} and row["documents"][0] == 0
    same = ~begins[1:]
    np.testing.assert_array_equal(np.diff(row["offsets"])[same], 1)
    texts = bytes(np.where(begins, 0, row["tokens"]).astype(np.uint8).tolist())
    ends = np.flatnonzero(begins)
    read = [texts[a + 1 : b] for a, b in zip(ends, ends[1:], strict=False)]
    assert sorted(read[: len(documents)]) == sorted(documents)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_target_is_the_next_token_of_the_document(corpus_of, random_documents, batch_size):
    # with four lanes, the first is cut
    long = random_documents([150, 4, 9])
    got = stream(Lanes(corpus_of(long), batch_size, 12, seed=0), 20)
    inside = np.diff(got["documents"]) == 0
    targets, following = got["targets"][:, :-1], got["tokens"][:, 1:]
    np.testing.assert_array_equal(targets[inside], following[inside])
    at_cut = ~inside & (targets != END)
    assert at_cut.any() == (batch_size == 4)
    # what comes next in the lane is another text, the target still the cut one's next token
    if at_cut.any():
        assert (targets[at_cut] != following[at_cut]).any()
        numbers = stream(Lanes(numbered([150, 4, 9]), batch_size, 12, seed=0), 20)
        np.testing.assert_array_equal(numbers["targets"], numbers["tokens"] + 1)


def test_one_document_feeds_every_lane_with_another_part(random_documents, corpus_of):
    tokens = Lanes(numbered([999]), 8, 100, seed=0)[0]["tokens"]
    assert len(np.unique(tokens)) == tokens.size == 800


@given(corpora, st.integers(1, 8), st.integers(0, 9))
def test_lanes_are_about_equally_long(lengths, num_lanes, seed):
    corpus = numbered(lengths)
    limit = -(-corpus.num_tokens // num_lanes)
    parts, ordinal = cut(corpus, limit)
    assert parts.lengths.max() <= limit
    assert (ordinal == 0).sum() == len(lengths)
    lanes = deal(parts.lengths, num_lanes, seed)
    assert sorted(np.concatenate(lanes)) == list(range(len(parts)))
    loads = [parts.lengths[lane].sum() for lane in lanes]
    assert max(loads) - min(loads) <= parts.lengths.max()
    long_and_short = np.array([1] * 10 + [10])
    assert [long_and_short[lane].sum() for lane in deal(long_and_short, 2, seed)] == [10, 10]


def test_dealing_depends_on_the_seed_where_lengths_do_not_decide():
    same = np.full(40, 10)
    assert [lane.tolist() for lane in deal(same, 4, 0)] == [
        lane.tolist() for lane in deal(same, 4, 0)
    ]
    assert [sorted(lane) for lane in deal(same, 4, 0)] != [
        sorted(lane) for lane in deal(same, 4, 1)
    ]


def test_corpus_too_small_for_one_batch_is_refused(corpus_of, random_documents):
    corpus = corpus_of(random_documents([100] * 8))
    Lanes(corpus, 8, 100, seed=0)
    with pytest.raises(
        UserError, match="808 tokens, its shortest lane 101: .* batch_size=8 .* 101 tokens a step"
    ):
        Lanes(corpus, 8, 101, seed=0)
