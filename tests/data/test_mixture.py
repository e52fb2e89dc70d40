"""Mixtures: shares of tokens, whole documents, resume at any step."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmat_jax.config import Config, DataConfig, RMATConfig
from rmat_jax.data import make_data, mixture
from rmat_jax.data.corpus import Corpus
from rmat_jax.data.lanes import FIELDS, Parts
from rmat_jax.data.mixture import MixedLanes, round_counts
from rmat_jax.data.sources import make_source
from rmat_jax.errors import UserError

# tokens of the first corpus are below it, those of the second from it on, and so on
APART = 100_000
LENGTHS = [[30, 5, 80, 12, 44] * 3, [200, 150, 90, 310], [9] * 50]
WEIGHTS = [0.5, 0.3, 0.2]


def numbered(lengths, first):
    """A corpus whose tokens are all different."""
    starts = np.cumsum([0] + [length + 1 for length in lengths])
    return Corpus(first + np.arange(starts[-1] + 1), starts, sum(lengths), digest="")


CORPORA = [numbered(lengths, index * APART) for index, lengths in enumerate(LENGTHS)]


@pytest.fixture
def short_rounds(monkeypatch):
    """Rounds of so many tokens that a test reads several."""
    monkeypatch.setattr(mixture, "ROUND", 1000)


def lanes(batch_size=2, length=50, seed=0, rows=None):
    return MixedLanes(CORPORA, WEIGHTS, batch_size, length, seed, rows)


def stream(lanes, steps):
    batches = [lanes[step] for step in range(steps)]
    return {name: np.concatenate([batch[name] for batch in batches], axis=1) for name in FIELDS}


def test_shares_are_exact_each_round_and_near_at_any_token(short_rounds):
    read = stream(lanes(), 100)["tokens"] // APART
    longest = sum(max(lengths) + 1 for lengths in LENGTHS)
    for row in read:
        for source, weight in enumerate(WEIGHTS):
            mine = (row == source).reshape(5, 1000)
            assert (mine.sum(1) == weight * 1000).all()
            off = mine.reshape(-1).cumsum() - weight * np.arange(1, 5001)
            assert abs(off).max() < longest
            # the control: sources do come in turns, and not token by token
            assert abs(off).max() > 5
    # lanes do not go in step
    assert (read[0] != read[1]).any()


def test_shares_hold_in_rounds_as_they_are():
    read = stream(lanes(batch_size=1, length=1 << 16), 16)["tokens"] // APART
    assert [int((read == source).sum()) for source in range(3)] == round_counts(WEIGHTS)
    assert sum(round_counts(WEIGHTS)) == mixture.ROUND == read.size


def test_every_document_of_every_source_comes_and_comes_again(short_rounds):
    read = stream(lanes(), 120)
    for index, corpus in enumerate(CORPORA):
        tokens = read["tokens"][read["tokens"] // APART == index]
        seen = np.bincount(tokens - index * APART, minlength=corpus.num_tokens)
        assert seen[: corpus.num_tokens].min() >= 1
        # a pass ends before the next begins, in each lane
        for row in range(2):
            mine = read["tokens"][row]
            mine = mine[mine // APART == index] - index * APART
            counts = np.bincount(mine, minlength=corpus.num_tokens)
            counts = counts[counts > 0]
            assert counts.max() - counts.min() <= 1


def test_tokens_go_on_inside_a_document_and_targets_follow_them(short_rounds):
    read = stream(lanes(), 100)
    np.testing.assert_array_equal(read["targets"], read["tokens"] + 1)
    same = np.diff(read["documents"]) == 0
    assert (np.diff(read["tokens"])[same] == 1).all() and (
        np.diff(read["offsets"])[same] == 1
    ).all()
    assert (read["offsets"][:, 1:][~same] == 0).all() and 0 < (~same).mean() < 0.2


def test_any_step_is_what_a_run_from_the_start_reads_there(short_rounds):
    run = lanes()
    before = [run[step] for step in range(60)]
    for step in (0, 19, 20, 41, 59):
        for name, values in lanes()[step].items():
            np.testing.assert_array_equal(values, before[step][name])
    for name, values in lanes()[10**9].items():
        np.testing.assert_array_equal(values, run[10**9][name])
    assert (lanes(seed=1)[0]["tokens"] != before[0]["tokens"]).any()
    parts = [lanes(rows=[row])[41] for row in range(2)]
    for name in FIELDS:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, before[41][name])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.data())
@settings(max_examples=50, deadline=None)
def test_parts_cut_at_both_ends_are_the_same_stream(lengths, data):
    total = sum(lengths)
    starts = np.arange(len(lengths)) * 100
    parts = Parts(starts, np.array(lengths))
    position = data.draw(st.integers(0, total - 1))
    count = data.draw(st.integers(1, total - position))
    cut = parts.between(position, count)
    assert cut.lengths.sum() == count and (cut.lengths > 0).all()
    whole, _, _ = parts.places(0, total)
    np.testing.assert_array_equal(cut.places(0, count)[0], whole[position : position + count])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a.txt", "data.mixture names 'a.txt', which must be PATH:WEIGHT"),
        ("a.txt:much", "data.mixture names 'a.txt:much', which must be"),
        (":1", "data.mixture names ':1', which must be"),
        ("a.txt:1,b.txt:0", "gives b.txt the weight 0, which must be a positive number; leave out"),
        ("a.txt:-1", "gives a.txt the weight -1, which must be a positive"),
        ("a.txt:nan", "gives a.txt the weight nan"),
        ("a.txt:inf", "gives a.txt the weight inf"),
    ],
)
def test_bad_weights_are_one_line(value, message):
    with pytest.raises(UserError, match=message) as error:
        DataConfig(mixture=value)
    assert "\n" not in str(error.value)


def test_a_mixture_is_one_source_and_goes_with_no_other():
    assert DataConfig(mixture="a:3,b/c:1").shares == (("a", 0.75), ("b/c", 0.25))
    for more in ({"path": "a"}, {"tfds": "pg19"}, {"synthetic": "recall"}):
        with pytest.raises(UserError, match="data.mixture.* are both set; give one source"):
            DataConfig(mixture="a:1", **more)
    with pytest.raises(UserError, match="cuts one text, not a data.mixture"):
        DataConfig(mixture="a:1", passkey=True)


def test_a_source_with_too_little_for_a_lane_or_a_round_is_named():
    small = numbered([3], 0)
    with pytest.raises(UserError, match="source 2 of data.mixture has 4 tokens, too few for batch"):
        MixedLanes([CORPORA[0], small], [0.5, 0.5], 8, 10, 0)
    with pytest.raises(UserError, match="gives source 2 less than one of 1,048,576 tokens"):
        round_counts([1 - 1e-8, 1e-8])


@pytest.fixture
def folders(tmp_path, random_documents):
    for name, size in (("a", 100), ("b", 400)):
        (tmp_path / name).mkdir()
        for i, document in enumerate(random_documents([size] * 20, seed=size)):
            (tmp_path / name / f"{i}.txt").write_bytes(document)
    return tmp_path


def config_of(folders, weights=(3, 1), **data):
    text = ",".join(f"{folders / name}:{w}" for name, w in zip("ab", weights, strict=True))
    data = DataConfig(mixture=text, format="text", heldout_fraction=0.2, **data)
    model = RMATConfig(chunk_len=16)
    return Config(model=model, data=data, batch_size=2, eval_batch_size=2, eval_tokens=4000)


def test_a_run_reads_its_mixture_again(folders, tmp_path):
    config = config_of(folders)
    data = make_data(config, tmp_path / "run")
    run = list(itertools.islice(data.train.batches(), 9))
    resumed = next(make_data(config, tmp_path / "run").train.batches(start_step=8))
    for name in FIELDS:
        np.testing.assert_array_equal(resumed[name], run[8][name])
    assert sorted(data.corpora) == ["heldout", "train-0", "train-1"]
    assert "mixture of 0.75 " in data.describe and "\n" not in data.describe
    # weights are what a run must find again, places are not
    other = make_data(config_of(folders, (1, 1)), tmp_path / "other")
    assert other.identity != data.identity
    for name in "ab":
        (folders / name).rename(folders / f"{name}2")
    kept = make_data(config, tmp_path / "run")
    assert kept.identity == data.identity
    np.testing.assert_array_equal(kept.train.lanes[5]["tokens"], data.train.lanes[5]["tokens"])
    with pytest.raises(UserError, match="does not exist"):
        make_data(config, tmp_path / "third")


def test_what_is_held_out_and_what_a_vocabulary_is_made_of_begins_with_all(folders):
    source = make_source(config_of(folders).data)
    for side in (source.train, source.heldout):
        lengths = np.array([len(document) for document in side()])
        small = np.where(lengths == 100, lengths, 0).cumsum()
        while_both = slice(0, np.flatnonzero(lengths == 100)[-1] + 1)
        # three quarters of the bytes, to a document
        off = (small - 0.75 * lengths.cumsum())[while_both]
        assert abs(off).max() <= 400 and {*lengths[:3]} == {100, 400}
    train = [*source.train(), *source.heldout()]
    assert len(train) == len({*train}) == 40
    # one held-out text for all
    given = make_source(config_of(folders, heldout_path=str(folders / "b" / "0.txt")).data)
    assert [len(document) for document in given.heldout()] == [400]
    assert len(list(given.train())) == 39
