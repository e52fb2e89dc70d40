"""Recall documents can be answered from their first chunk, and not without it."""

import re
from os.path import commonprefix

import numpy as np
import pytest

from rmat_jax.config import IGNORE, Config, DataConfig, RMATConfig
from rmat_jax.data import make_data
from rmat_jax.data.lanes import FIELDS
from rmat_jax.data.recall import (
    AFTER,
    BEFORE,
    DIGITS,
    NOISE,
    PassKeyLanes,
    RecallLanes,
    recall_vocab_size,
)
from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError

CHUNK, GAP, PAIRS, SYMBOLS = 16, 3, 4, 8
DOCUMENT = CHUNK * (GAP + 2)


def config(chunks_per_step=GAP + 2, vocab_size=32, chunk_len=CHUNK, **data):
    model = RMATConfig(vocab_size=vocab_size, chunk_len=chunk_len)
    recall = {"recall_gap": GAP, "recall_pairs": PAIRS, "recall_symbols": SYMBOLS} | data
    return Config(
        model=model,
        data=DataConfig(synthetic="recall", **recall),
        batch_size=4,
        chunks_per_step=chunks_per_step,
    )


def lanes(rows=range(4), split="train", **settings):
    return RecallLanes(config(**settings), rows, split)


def is_key(tokens):
    return (tokens >= NOISE) & (tokens < NOISE + SYMBOLS)


def answer(tokens, places, known):
    """An oracle: at each of `places` the value that followed the key there in `known`; -2 if none
    did.
    """
    value = {
        int(key): int(after) for key, after in zip(known, known[1:], strict=False) if is_key(key)
    }
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
    np.testing.assert_array_equal(
        batch["offsets"], np.broadcast_to(np.arange(DOCUMENT), (4, DOCUMENT))
    )
    chunks = batch["tokens"].reshape(4, GAP + 2, CHUNK)
    assert (chunks[:, 1:-1] < NOISE).all()
    for row in range(4):
        told = np.flatnonzero(is_key(chunks[row, 0]))
        assert len(set(chunks[row, 0, told])) == PAIRS and (told % 2 == 0).all()
        assert (
            is_key(chunks[row, -1]) == (np.arange(CHUNK) % 2 == 0) & (np.arange(CHUNK) < 2 * PAIRS)
        ).all()
        asked = np.flatnonzero(batch["targets"][row] != IGNORE)
        np.testing.assert_array_equal(asked, DOCUMENT - CHUNK + 2 * np.arange(PAIRS))
        np.testing.assert_array_equal(batch["targets"][row, asked], batch["tokens"][row, asked + 1])
        assert set(chunks[row, 0, told]) == set(batch["tokens"][row, asked])
    assert batch["tokens"].max() < recall_vocab_size(config().data) == NOISE + 2 * SYMBOLS


def test_pairs_in_any_chunk_are_near_as_often_as_far():
    gap = 6
    made = RecallLanes(
        config(recall_place="any", recall_gap=gap, chunks_per_step=gap + 2), range(4), "train"
    )
    distances = []
    for step in range(400):
        for row, targets in zip(made[step]["tokens"], made[step]["targets"], strict=True):
            keys = np.flatnonzero(is_key(row))
            told, asked = keys[:PAIRS], keys[PAIRS:]
            assert len(set(told // CHUNK)) == 1 and (asked // CHUNK == gap + 1).all()
            values = dict(zip(row[told], row[told + 1], strict=True))
            assert (
                [values[key] for key in row[asked]]
                == row[asked + 1].tolist()
                == targets[asked].tolist()
            )
            distances.append(gap + 1 - told[0] // CHUNK)
    distances = np.array(distances)
    assert set(distances) == set(range(1, gap + 2))
    # [1], [2, 3], [4 .. 7]: each a third; 1,600 documents: a standard error of 0.012
    for near in (1, 2, 4):
        assert abs(((distances >= near) & (distances < 2 * near)).mean() - 1 / 3) < 0.05


def test_evenly_placed_facts_stand_at_all_distances_alike():
    gap, steps = 6, range(400)
    pairs = RecallLanes(
        config(recall_place="even", recall_gap=gap, chunks_per_step=gap + 2), range(4), "train"
    )
    chunks = [
        np.flatnonzero(is_key(row))[0] // CHUNK for step in steps for row in pairs[step]["tokens"]
    ]
    # 1,600 documents: standard errors of 0.009
    shares = np.bincount(chunks, minlength=gap + 1) / len(chunks)
    assert len(shares) == gap + 1 and np.abs(shares - 1 / (gap + 1)).max() < 0.04

    keys = passkey_lanes(recall_place="even")
    begins = np.array(
        [as_text(row).index(BEFORE) for step in steps for row in keys[step]["tokens"]]
    )
    last = 5 * 32 - SENTENCE
    assert begins.min() == 1 and begins.max() == last
    # a standard error of 0.8; drawn by logarithms the mean is 68
    assert abs(begins.mean() - (1 + last) / 2) < 3.5


def test_of_keys_that_are_told_again_the_last_values_count():
    gap, rate = 6, 1.5
    settings = {"recall_place": "any", "recall_gap": gap, "chunks_per_step": gap + 2}
    made, once = lanes(recall_updates=rate, **settings), lanes(**settings)
    last, first, asked, tellings = 0, 0, 0, []
    for step in range(300):
        for row, targets in zip(made[step]["tokens"], made[step]["targets"], strict=True):
            places = np.flatnonzero(targets != IGNORE)
            context = row[:-CHUNK]
            # `answer` takes the last value; backwards, of whole pairs, it takes the first one
            last += (answer(row, places, context) == targets[places]).sum()
            backwards = context.reshape(-1, 2)[::-1].ravel()
            first += (answer(row, places, backwards) == targets[places]).sum()
            asked += len(places)
            chunks = np.flatnonzero(is_key(context.reshape(-1, CHUNK)).any(1))
            assert set(row[places]) == set(context[is_key(context)])
            if gap - chunks[-1] < 3:
                tellings.append(len(chunks) - 1)
    assert last == asked == 1200 * PAIRS
    # the control: most documents tell their keys more than once
    assert first < 0.7 * asked
    # two tellings may share a chunk
    assert 0.8 < np.mean(tellings) < rate
    assert any((made[s]["tokens"] != once[s]["tokens"]).any() for s in range(3))


@pytest.mark.parametrize("chunks_per_step", [1, 2, 5, 7])
def test_steps_of_any_length_read_the_same_stream(chunks_per_step):
    steps = 35
    reference = [lanes(chunks_per_step=35)[step] for step in range(chunks_per_step)]
    some = lanes(chunks_per_step=chunks_per_step)
    for name in FIELDS:
        expected = np.concatenate([batch[name] for batch in reference], axis=1)
        np.testing.assert_array_equal(
            np.concatenate([some[step][name] for step in range(steps)], axis=1), expected
        )
        assert some[0][name].dtype == np.int32
    assert (some[0]["tokens"] != some[1]["tokens"]).any()


def test_documents_are_counted_and_differ_by_lane_number_split_and_seed():
    batch, later, heldout, other = (
        lanes()[0],
        lanes()[1],
        lanes(split="heldout")[0],
        lanes(seed=1)[0],
    )
    assert (batch["documents"] == 0).all() and (later["documents"] == 1).all()
    texts = [row.tobytes() for b in (batch, later, heldout, other) for row in b["tokens"]]
    assert len(set(texts)) == 16
    assert batch["tokens"].tobytes() == lanes()[0]["tokens"].tobytes()


def test_processes_together_read_the_global_batch():
    parts = [lanes(rows=range(2 * p, 2 * p + 2))[3] for p in range(2)]
    for name in FIELDS:
        np.testing.assert_array_equal(
            np.concatenate([part[name] for part in parts]), lanes()[3][name]
        )


def test_length_is_what_was_asked_for():
    few = RecallLanes(config(), range(4), "heldout", steps=3)
    assert len(few) == len(list(few)) == 3
    with pytest.raises(IndexError):
        few[3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"vocab_size": 23},
            "token ids outside the vocabulary: recall_symbols=8 .* set model.vocab_size=24",
        ),
        (
            {"chunk_len": 8, "recall_pairs": 5},
            "recall_pairs=5 take 10 tokens .* chunk_len=8; use at most 4 pairs",
        ),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    lanes(vocab_size=24)
    lanes(chunk_len=8, recall_pairs=4)
    with pytest.raises(UserError, match=message):
        lanes(**settings)


TEXT = np.random.default_rng(5).integers(ord("a"), ord("z") + 1, 5000).astype(np.uint16)
SENTENCE = len(BEFORE) + DIGITS + len(AFTER)


def passkey_config(gap=4, chunk_len=32, **settings):
    model = RMATConfig(vocab_size=257, chunk_len=chunk_len)
    data = DataConfig(passkey=True, recall_gap=gap, **{"recall_place": "any"} | settings)
    return Config(model=model, data=data, batch_size=4, chunks_per_step=gap + 2)


def passkey_lanes(split="train", **settings):
    return PassKeyLanes(passkey_config(**settings), range(4), split, TEXT, ByteTokenizer())


def as_text(tokens):
    return bytes(np.where(tokens < 256, tokens, ord("|")).astype(np.uint8))


def test_a_pass_key_is_told_once_at_any_distance_and_asked_for_at_the_end():
    gap, chunk = 4, 32
    made, distances, keys = passkey_lanes(), [], []
    context = (gap + 1) * chunk
    for step in range(300):
        batch = made[step]
        for tokens, targets in zip(batch["tokens"], batch["targets"], strict=True):
            told, asked = as_text(tokens[:context]), as_text(tokens[context:])
            assert told.count(BEFORE) == told.count(AFTER) == 1 and told[:1] == b"|"
            begin = told.index(BEFORE)
            key = told[begin + len(BEFORE) :][:DIGITS]
            assert key.isdigit() and told[begin:][:SENTENCE] == BEFORE + key + AFTER
            assert asked.startswith(BEFORE + key) and asked.count(key) == 1
            answers = np.flatnonzero(targets != IGNORE)
            assert answers.tolist() == list(
                range(context + len(BEFORE) - 1, context + len(BEFORE) - 1 + DIGITS)
            )
            assert as_text(targets[answers]) == key
            around = told[1:begin] + told[begin + SENTENCE :] + asked[len(BEFORE) + DIGITS :]
            # a piece of the text
            assert around.isalpha() and as_text(TEXT).count(around[-10:]) == 1
            distances.append(context - begin)
            keys.append(int(key))
    distances = np.array(distances)
    assert distances.min() == SENTENCE and distances.max() == context - 1
    # 1,200 documents: a standard error of 0.014
    middle = (SENTENCE * context) ** 0.5
    assert abs((distances < middle).mean() - 0.5) < 0.06
    assert len(set(keys)) > 1100 and abs(np.mean(keys) / 1e5 - 0.5) < 0.04


def test_a_pass_key_in_the_first_chunk_begins_there():
    begins = [
        as_text(row).index(BEFORE)
        for step in range(100)
        for row in passkey_lanes(recall_place="first")[step]["tokens"]
    ]
    assert set(begins) == set(range(1, 32))


def test_decoys_are_other_numbers_of_all_lengths_in_the_context_and_none_in_the_question():
    gap, chunk, rate = 4, 32, 0.5
    context, likes, lengths, documents = (gap + 1) * chunk, [], [], 0
    made = passkey_lanes(passkey_decoys=rate)
    for step in range(100):
        for tokens in made[step]["tokens"]:
            told, asked = as_text(tokens[:context]), as_text(tokens[context:])
            before, sentence, after = told.partition(BEFORE)
            key, rest = after[:DIGITS], after[DIGITS:]
            # no decoy is written over it
            assert sentence == BEFORE and key.isdigit() and rest.startswith(AFTER)
            assert asked.startswith(BEFORE + key) and asked[len(BEFORE) + DIGITS :].isalpha()
            around = before + b"," + rest.removeprefix(AFTER)
            for number in re.finditer(rb"\d+", around):
                lengths.append(len(number[0]))
                likes.append(len(commonprefix([BEFORE[::-1], around[: number.start()][::-1]])))
            documents += 1
    # The sentence covers 46 of 160 tokens, so that about 1.8 of 2.5 are seen; 400 documents: a
    # standard error of 0.07.
    assert abs(len(lengths) / documents - rate * (context - SENTENCE) / chunk) < 0.3
    # What stands before it, unless another number cuts it off; the text may add a letter by chance.
    half = len(BEFORE) - len(BEFORE) // 2
    shares = np.bincount(likes, minlength=half + 1) / len(likes)
    assert (
        shares[0] < 0.1
        and (np.abs(shares[1 : half + 1] - 1 / half) < 0.05).all()
        and shares[half + 1 :].sum() < 0.02
    )
    counts = np.bincount(lengths, minlength=DIGITS + 1)[1 : DIGITS + 1] / len(lengths)
    # a standard error of 0.015; cut ones and merged ones move them
    assert (np.abs(counts - 1 / DIGITS) < 0.08).all()


def test_pass_keys_differ_by_lane_step_split_and_seed():
    batches = (
        passkey_lanes()[0],
        passkey_lanes()[1],
        passkey_lanes(split="heldout")[0],
        passkey_lanes(seed=1)[0],
    )
    assert len({row.tobytes() for batch in batches for row in batch["tokens"]}) == 16
    assert passkey_lanes()[0]["tokens"].tobytes() == batches[0]["tokens"].tobytes()


def test_pass_keys_in_a_text_of_ones_own(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "abc":
        (texts / f"{name}.txt").write_bytes(as_text(TEXT[:1000]))
    data = make_data(passkey_config(path=str(texts)), tmp_path / "run")
    assert data.tokenizer.vocab_size == 257 and data.heldout.num_bytes is None
    assert (
        "pass keys in documents of 192 tokens cut from" in data.describe
        and "held out: 1 documents" in data.describe
    )
    batch = next(data.train.batches())
    assert as_text(batch["tokens"][0]).count(BEFORE) == 2
    assert sum((held["targets"] != IGNORE).sum() for held in data.heldout) % DIGITS == 0
    plain = make_data(
        Config(passkey_config().model, DataConfig(path=str(texts)), batch_size=4),
        tmp_path / "run",
    )
    # the control: without it, the text
    assert plain.heldout.num_bytes == 1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gap": 0},
            "recall_gap=0 chunks of 32 tokens leave a pass key too little room: .* at least "
            "recall_gap=1",
        ),
        (
            {"chunk_len": 16},
            "chunk_len=16 is too short to ask for a pass key, which takes 22 tokens; use at least "
            "22",
        ),
        ({"synthetic": "recall"}, "data.passkey=True needs text, data.synthetic has none"),
    ],
)
def test_a_pass_key_without_room_or_text_is_refused(settings, message):
    passkey_lanes(gap=1)
    with pytest.raises(UserError, match=message):
        passkey_lanes(**settings)
