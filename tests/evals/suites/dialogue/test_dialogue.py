"""Turns cost what they cost in one reading, and the emptied memory is the state's own."""

import dataclasses
import functools
import gzip
import json
import re

import jax
import numpy as np
import pytest

from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_TEXTS
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.dialogue.dialogues import Turn, join, load, parse
from rmat_jax.evals.suites.dialogue.suite import check, dialogue, measure
from rmat_jax.infer import open_chunk
from rmat_jax.ops import losses
from tests.evals.suites.answers.test_questions import LOCOMO
from tests.evals.tiny import subject

TALK = [
    [Turn("ANN", f"I think of {n} and {n * n}."), Turn("BOB", "Yes?"), Turn("ANN", "Of that.")]
    for n in range(9)
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    one = dataclasses.replace(subject(), workdir=tmp_path_factory.mktemp("run"))
    joined = join(TALK, one.tokenizer, 150)
    return one, joined, measure(one, joined)


@functools.partial(jax.jit, static_argnums=0)
def bits(config, params, x_BT, y_BT, state):
    """Of every target, and the state after them, wherever in a chunk they end."""
    x_BTD, state = open_chunk.read(config, params, state, x_BT)
    scores = losses.score(open_chunk.logits(config, params, x_BTD), y_BT)
    return scores.loss_BT[0] / np.log(2), state


def one_pass(one, text, forget_at=None):
    """Bits of every token of a text after its first, read at once; or with the memory emptied
    before a place.
    """
    config = one.config.model
    tokens = np.concatenate([[256], np.frombuffer(text, np.uint8)])[None].astype(np.int32)
    state = open_chunk.stack_layers(open_chunk.initial_state(config, 1))
    if forget_at is None:
        # one program for all
        padded = np.pad(tokens, ((0, 0), (0, 160 - tokens.shape[1])))
        found, _ = bits(config, one.params, padded[:, :-1], padded[:, 1:], state)
        return np.asarray(found)[: len(text)]
    first, rest = np.split(np.arange(len(text)), [forget_at])
    before, state = bits(config, one.params, tokens[:, first], tokens[:, first + 1], state)
    after, _ = bits(config, one.params, tokens[:, rest], tokens[:, rest + 1], state.forget())
    return np.concatenate([before, after])


def test_turns_cost_what_one_reading_says(measured):
    one, joined, found = measured
    assert len(joined) > 1
    place = 0
    for number, long in enumerate(joined):
        text = b"".join(turn.lead() + turn.text() for turn in long)
        bits, at = one_pass(one, text), 0
        for turn in long:
            at += len(turn.lead())
            expected = bits[at : at + len(turn.text())].sum()
            assert found.bits[KEPT][place] == pytest.approx(expected, rel=1e-4)
            assert found.sizes[place] == len(turn.text()) and found.units[place] == number
            at, place = at + len(turn.text()), place + 1
    assert place == len(found.sizes) == sum(map(len, joined))


def test_the_memory_is_emptied_before_the_turn(measured):
    one, joined, found = measured
    long = joined[0]
    text = b"".join(turn.lead() + turn.text() for turn in long)
    # where the fifth turn begins, behind its `end`
    at = sum(len(turn.lead() + turn.text()) for turn in long[:4])
    turn, end = long[4], at + len(long[4].lead() + long[4].text())
    expected = one_pass(one, text[:end], forget_at=at + 1)[at + len(turn.lead()) :].sum()
    assert found.bits[EMPTIED][4] == pytest.approx(expected, rel=1e-4)
    assert abs(found.bits[EMPTIED][4] - found.bits[KEPT][4]) > 0.01
    alone = one_pass(one, turn.lead() + turn.text())[len(turn.lead()) :].sum()
    assert found.bits[ALONE][4] == pytest.approx(alone, rel=1e-4)


def test_before_the_first_chunk_ends_there_is_nothing_to_empty(measured):
    _, joined, found = measured
    first = np.cumsum([0, *map(len, joined[:-1])])
    np.testing.assert_allclose(found.bits[EMPTIED][first], found.bits[KEPT][first], rtol=1e-5)
    np.testing.assert_allclose(found.bits[ALONE][first], found.bits[KEPT][first], rtol=1e-5)
    # the control
    assert (np.abs(found.bits[EMPTIED] - found.bits[KEPT]) > 1e-3).mean() > 0.5


def test_joined_dialogues_are_whole_and_none_is_lost():
    joined = join(TALK, ByteTokenizer(), 150)
    assert [placed.turn for long in joined for placed in long] == [
        turn for talk in TALK for turn in talk
    ]
    for long in joined:
        assert sum(len(placed.lead() + placed.text()) for placed in long) <= 150
        assert (long[0].session, long[0].number) == (1, 1)
        assert long[0].lead() == b"ANN:" and long[1].text() == b" Yes?\n"
    fourth = joined[0][3]
    assert fourth.lead() == b"\nANN:" and (fourth.session, fourth.number) == (2, 1)
    # cut after its last whole turn
    assert [len(long) for long in join(TALK[:1], ByteTokenizer(), 40)] == [2]


def test_the_section_is_whole(measured, tmp_path):
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([{"turns": [turn._asdict() for turn in talk]} for talk in TALK]))
    section = dialogue(
        measured[0], Options(dialogue=str(file), max_tokens=150, examples=2), tmp_path
    )
    assert (tmp_path / "dialogue.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads(json.dumps(section.values))
    assert values["dialogues"] == 2
    bits = values["all"]["bits_per_byte"]
    assert (
        f"**{bits[OF_TEXTS[KEPT]]:.3f} bits per byte**, "
        f"{bits[OF_TEXTS[EMPTIED]]:.3f} with the memory emptied" in section.headline
    )
    # the verdict
    assert "Memory" in section.text.partition("\n")[0]


@pytest.mark.parametrize("fewest, is_told", [(3, True), (1, False)])
def test_turns_that_no_group_has_are_told(measured, tmp_path, monkeypatch, fewest, is_told):
    monkeypatch.setattr("rmat_jax.evals.suites.dialogue.suite.MIN_TURNS", fewest)
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([{"turns": [turn._asdict() for turn in talk]} for talk in TALK]))
    options = Options(dialogue=str(file), max_tokens=150, examples=2)
    section = dialogue(measured[0], options, tmp_path)
    told = re.findall(r"(\d+) turns of groups with fewer", section.text)
    assert bool(told) == is_told
    grouped = sum(group["texts"] for group in section.values["by_turn"].values())
    assert grouped + sum(map(int, told)) == section.values["all"]["texts"]


def test_a_model_without_memory_has_no_emptied_one(measured):
    without = dataclasses.replace(
        subject(branches=("full", "local"), memory=None), workdir=measured[0].workdir
    )
    assert list(measure(without, join(TALK[:1], without.tokenizer, 150)).bits) == [KEPT, ALONE]
    assert list(measured[2].bits) == [KEPT, EMPTIED, ALONE]


def test_files_of_several_kinds(tmp_path):
    turns = [{"role": "user", "content": "Hello\nthere"}, {"role": "bot", "content": "Hi."}]
    line = json.dumps({"turns": turns})
    (tmp_path / "a.jsonl").write_text(f"{line}\n\n{line}\n")
    (tmp_path / "b.json").write_text(f"[{line}]")
    (tmp_path / "c.txt").write_text("no dialogue")
    expected = [Turn("user", "Hello there"), Turn("bot", "Hi.")]
    assert load(str(tmp_path / "a.jsonl"), 9) == [expected] * 2
    assert load(str(tmp_path), 9) == [expected] * 3
    as_arrays = {"speaker": np.array([b"A", b"B"]), "utterance": np.array(["x", ""])}
    assert parse({"turns": as_arrays}, "here") == [Turn("A", "x")]


def test_published_dialogues_are_read_as_they_are(tmp_path):
    """QMSum's transcripts, LoCoMo's conversations, and SGD's folder with its schema."""
    talk = [Turn("Ann", "Hello."), Turn("Bob", "Hi.")]
    said = [{"speaker": turn.speaker, "content": turn.utterance} for turn in talk]
    assert parse({"topic_list": [], "meeting_transcripts": said}, "here") == talk
    assert parse(LOCOMO, "here") == [Turn("Ann", "Hello."), Turn("Bob", "Still here.")]
    sgd = [{"speaker": turn.speaker, "utterance": turn.utterance} for turn in talk]
    (tmp_path / "dialogues_001.json").write_text(json.dumps([{"turns": sgd}]))
    (tmp_path / "schema.json").write_text(json.dumps([{"service_name": "Hotels_1"}]))
    (tmp_path / "more.jsonl.gz").write_bytes(gzip.compress(json.dumps({"turns": sgd}).encode()))
    assert load(str(tmp_path), 9) == [talk, talk]
    # control: another file without turns is told of
    (tmp_path / "hotels.json").write_text(json.dumps([{"service_name": "Hotels_1"}]))
    with pytest.raises(UserError, match="hotels.json, record 1 has no list of turns"):
        load(str(tmp_path), 9)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no dialogue of two turns"),
        ('{"turns": [{"speaker": "A", "utterance": "b"}]}', "no dialogue of two turns"),
        ('{"turns": []}\n{"turns"', "line 2 is not JSON"),
        ("[1]", "record 1 has no list of turns"),
        ('{"turns": [{"speaker": "A"}]}', "a turn without speaker and utterance"),
    ],
)
def test_what_is_no_dialogue_is_said(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(str(tmp_path / "x.json"), 9)
    assert "\n" not in str(error.value)


def test_a_room_too_small_for_two_turns_is_said_at_once(tmp_path):
    turns = [{"speaker": turn.speaker, "utterance": turn.utterance} for turn in TALK[0]]
    (tmp_path / "x.json").write_text(json.dumps({"turns": turns}))
    # the control
    check(subject(), Options(dialogue=str(tmp_path / "x.json")))
    with pytest.raises(UserError, match="no dialogue whose first two turns take at most 20 tokens"):
        check(subject(), Options(dialogue=str(tmp_path / "x.json"), max_tokens=20))


def test_no_file_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(str(tmp_path / "nothing.json"), 9)
    with pytest.raises(UserError, match="holds no"):
        load(str(tmp_path), 9)
