"""Recall documents can be answered from their first chunk, and not without it."""

import numpy as np
import pytest

from rmat_jax.config import IGNORE, Config, DataConfig, RMATConfig, UserError
from rmat_jax.data.lanes import FIELDS
from rmat_jax.data.recall import NOISE, RecallLanes, recall_vocab_size

CHUNK, GAP, PAIRS, SYMBOLS = 16, 3, 4, 8
DOCUMENT = CHUNK * (GAP + 2)


def config(chunks_per_step=GAP + 2, vocab_size=32, chunk_len=CHUNK, **data):
    model = RMATConfig(vocab_size=vocab_size, chunk_len=chunk_len, window_len=chunk_len)
    recall = {"recall_gap": GAP, "recall_pairs": PAIRS, "recall_symbols": SYMBOLS} | data
    return Config(
        model=model, data=DataConfig(synthetic="recall", **recall), batch_size=4, chunks_per_step=chunks_per_step
    )


def lanes(rows=range(4), split="train", **settings):
    return RecallLanes(config(**settings), rows, split)


def is_key(tokens):
    return (tokens >= NOISE) & (tokens < NOISE + SYMBOLS)


def answer(tokens, places, known):
    """An oracle: at each of `places` the value that followed the key there in `known`; -2 if none did."""
    value = {int(key): int(after) for key, after in zip(known, known[1:], strict=False) if is_key(key)}
    return np.array([value.get(int(tokens[place]), -2) for place in places])


def test_oracle_of_the_first_chunk_answers_all_and_one_of_the_rest_nothing():
    right, blind, asked, values = 0, 0, 0, []
    for step in range(30):
        batch = lanes()[step]
        for tokens, targets in zip(batch["tokens"], batch["targets"], strict=True):
            places = np.flatnonzero(targets != IGNORE)
            right += (answer(tokens, places, tokens[:CHUNK]) == targets[places]).sum()
            blind += (answer(tokens, places, tokens[CHUNK:-CHUNK]) == targets[places]).sum()
            asked += len(places)
            values += targets[places].tolist()
    assert right == asked == 30 * 4 * PAIRS
    assert blind == 0
    # The best constant answer is at chance: values are uniform over all symbols.
    counts = np.bincount(np.array(values) - NOISE - SYMBOLS, minlength=SYMBOLS)
    assert len(counts) == SYMBOLS and counts.max() / asked < 1.6 / SYMBOLS


def test_document_is_chunks_of_noise_between_pairs_and_questions():
    batch = lanes()[0]
    np.testing.assert_array_equal(batch["offsets"], np.broadcast_to(np.arange(DOCUMENT), (4, DOCUMENT)))
    chunks = batch["tokens"].reshape(4, GAP + 2, CHUNK)
    assert (chunks[:, 1:-1] < NOISE).all()
    for row in range(4):
        told = np.flatnonzero(is_key(chunks[row, 0]))
        assert len(set(chunks[row, 0, told])) == PAIRS and (told % 2 == 0).all()
        assert (is_key(chunks[row, -1]) == (np.arange(CHUNK) % 2 == 0) & (np.arange(CHUNK) < 2 * PAIRS)).all()
        asked = np.flatnonzero(batch["targets"][row] != IGNORE)
        np.testing.assert_array_equal(asked, DOCUMENT - CHUNK + 2 * np.arange(PAIRS))
        np.testing.assert_array_equal(batch["targets"][row, asked], batch["tokens"][row, asked + 1])
        assert set(chunks[row, 0, told]) == set(batch["tokens"][row, asked])
    assert batch["tokens"].max() < recall_vocab_size(config().data) == NOISE + 2 * SYMBOLS


def test_pairs_in_any_chunk_are_near_as_often_as_far():
    gap = 6
    made = RecallLanes(config(recall_place="any", recall_gap=gap, chunks_per_step=gap + 2), range(4), "train")
    distances = []
    for step in range(400):
        for row, targets in zip(made[step]["tokens"], made[step]["targets"], strict=True):
            keys = np.flatnonzero(is_key(row))
            told, asked = keys[:PAIRS], keys[PAIRS:]
            assert len(set(told // CHUNK)) == 1 and (asked // CHUNK == gap + 1).all()
            values = dict(zip(row[told], row[told + 1], strict=True))
            assert [values[key] for key in row[asked]] == row[asked + 1].tolist() == targets[asked].tolist()
            distances.append(gap + 1 - told[0] // CHUNK)
    distances = np.array(distances)
    assert set(distances) == set(range(1, gap + 2))
    for near in (1, 2, 4):  # [1], [2, 3], [4 .. 7]: each a third; 1,600 documents: a standard error of 0.012
        assert abs(((distances >= near) & (distances < 2 * near)).mean() - 1 / 3) < 0.05


@pytest.mark.parametrize("chunks_per_step", [1, 2, 5, 7])
def test_steps_of_any_length_read_the_same_stream(chunks_per_step):
    steps = 35
    reference = [lanes(chunks_per_step=35)[step] for step in range(chunks_per_step)]
    some = lanes(chunks_per_step=chunks_per_step)
    for name in FIELDS:
        expected = np.concatenate([batch[name] for batch in reference], axis=1)
        np.testing.assert_array_equal(np.concatenate([some[step][name] for step in range(steps)], axis=1), expected)
        assert some[0][name].dtype == np.int32
    assert (some[0]["tokens"] != some[1]["tokens"]).any()


def test_documents_are_counted_and_differ_by_lane_number_split_and_seed():
    batch, later, heldout, other = lanes()[0], lanes()[1], lanes(split="heldout")[0], lanes(seed=1)[0]
    assert (batch["documents"] == 0).all() and (later["documents"] == 1).all()
    texts = [row.tobytes() for b in (batch, later, heldout, other) for row in b["tokens"]]
    assert len(set(texts)) == 16
    assert batch["tokens"].tobytes() == lanes()[0]["tokens"].tobytes()


def test_processes_together_read_the_global_batch():
    parts = [lanes(rows=range(2 * p, 2 * p + 2))[3] for p in range(2)]
    for name in FIELDS:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), lanes()[3][name])


def test_length_is_what_was_asked_for():
    few = RecallLanes(config(), range(4), "heldout", steps=3)
    assert len(few) == len(list(few)) == 3
    with pytest.raises(IndexError):
        few[3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 23}, "token ids outside the vocabulary: recall_symbols=8 .* set model.vocab_size=24"),
        ({"chunk_len": 8, "recall_pairs": 5}, "recall_pairs=5 take 10 tokens .* chunk_len=8; use at most 4 pairs"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    lanes(vocab_size=24)
    lanes(chunk_len=8, recall_pairs=4)
    with pytest.raises(UserError, match=message):
        lanes(**settings)
