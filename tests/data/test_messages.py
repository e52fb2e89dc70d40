"""Dialogues: the template, the targets of answers alone, and what is refused."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rmat_jax.config import IGNORE, Config, DataConfig, RMATConfig
from rmat_jax.data import make_data
from rmat_jax.data.corpus import build_corpus
from rmat_jax.data.heldout import HeldoutLanes
from rmat_jax.data.lanes import FIELDS
from rmat_jax.data.messages import Dialogue, asking, render
from rmat_jax.data.sources import make_source
from rmat_jax.data.tokenizer import BPETokenizer, ByteTokenizer
from rmat_jax.errors import UserError

END = 256


def messages(*said):
    roles = ("user", "assistant") * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


RECORDS = [
    {"messages": messages("Hi", "Hello.", "Bye?", "Good bye.\n\nSee you."), "id": 3},
    {"messages": [{"role": "system", "content": "Be terse."}, *messages("2 + 2?", "4")]},
    {"messages": messages("日本語?", "はい", "A question without an answer")},
]
TEXTS = [
    "<|user|>\nHi\n<|assistant|>\nHello.\n<|user|>\nBye?\n<|assistant|>\nGood bye.\n\nSee you.\n",
    "<|system|>\nBe terse.\n<|user|>\n2 + 2?\n<|assistant|>\n4\n",
    "<|user|>\n日本語?\n<|assistant|>\nはい\n<|user|>\nA question without an answer\n",
]
ANSWERS = [["Hello.", "Good bye.\n\nSee you."], ["4"], ["はい"]]


def write(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def read(file, **settings):
    """The dialogues of a file, with the held-out ones at the end."""
    settings = {"heldout_fraction": 0.5, "format": "messages"} | settings
    source = make_source(DataConfig(path=str(file), **settings))
    return [*source.train(), *source.heldout()]


def answers(dialogue):
    return [dialogue[start:stop].decode() for start, stop in dialogue.answers]


def as_parquet(records):
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), out)
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_messages_become_one_text_whose_answers_are_known(tmp_path, name):
    file = tmp_path / name
    if name.endswith("l"):
        write(file, RECORDS)
    else:
        file.write_bytes(as_parquet([{"messages": record["messages"]} for record in RECORDS]))
    found = [*read(file)]
    order = [0, 2, 1]
    assert [text.decode() for text in found] == [TEXTS[i] for i in order]
    assert [answers(text) for text in found] == [ANSWERS[i] for i in order]
    assert all(b"".join(run for run, _ in text.runs()) == text for text in found)
    assert [run.decode() for run, learned in found[0].runs() if learned] == ANSWERS[0]


PAIRS = {
    "prompt": {"prompt": "2 + 2?", "completion": "4"},
    "instruction": {"instruction": "2 + 2?", "input": "", "output": "4"},
    "no input": {"instruction": "2 + 2?", "output": "4"},
    "input": {"instruction": "Add.", "input": "2 + 2", "output": "4"},
}


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("case", PAIRS)
def test_prompts_with_answers_are_dialogues_of_one_question(tmp_path, case, ending):
    file, record = tmp_path / f"a.{ending}", PAIRS[case]
    if ending == "jsonl":
        write(file, [record] * 2)
    else:
        with file.open("w", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(record))
            writer.writeheader()
            writer.writerows([record] * 2)
    question = "Add.\n\n2 + 2" if case == "input" else "2 + 2?"
    for found in read(file):
        assert found == f"<|user|>\n{question}\n<|assistant|>\n4\n".encode()
        assert answers(found) == ["4"]


def test_the_field_may_have_another_name(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"talk": messages("a", "b"), "messages": 3}] * 2)
    assert [answers(found) for found in read(file, feature="talk")] == [["b"]] * 2


def test_what_a_chat_reads_is_what_training_read(tmp_path):
    dialogue = render([("user", b"Hi"), ("assistant", b"Yes."), ("user", b"So?")])
    prompts = [asking("Hi", goes_on=False), asking("So?", goes_on=True)]
    asked = [run.decode() for run, learned in dialogue.runs() if not learned]
    assert asked == [prompts[0], prompts[1].removesuffix("<|assistant|>\n")]


BROKEN = {
    "empty": ({"messages": []}, "line 1: field 'messages' is empty"),
    "no list": ({"messages": "Hi"}, "field 'messages' holds str; it must be a list"),
    "null": ({"messages": None}, "field 'messages' holds NoneType"),
    "no answer": ({"messages": messages("Hi")}, "line 1 has no answer: no message is an assis"),
    "empty answer": ({"messages": messages("Hi", "")}, "line 1 has an empty answer; leave it out"),
    "a role": (
        {"messages": [{"role": "human", "content": "Hi"}]},
        "message 1 has the role 'human'; roles are system, user, assistant, tool",
    ),
    "no role": ({"messages": [{"content": "Hi"}]}, "message 1 is no record with role and content"),
    "no record": ({"messages": ["Hi"]}, "message 1 is no record with role and content"),
    "parts": (
        {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]},
        "message 1: field 'content' holds list, not text",
    ),
    "half": (
        {"prompt": "Hi"},
        "or 'segments', nor 'prompt' and 'completion', .*it has",
    ),
    "no completion": ({"prompt": "Hi", "completion": None}, "'completion' holds NoneType, not te"),
    "empty completion": ({"prompt": "Hi", "completion": ""}, "has an empty answer"),
    "text": ({"text": "Hi"}, "has no field 'messages' or .*it has text; set data.feature"),
    "no label": (
        {"segments": [{"text": "Hi"}]},
        "segment 1 is no record with text and",
    ),
    "no segments": ({"segments": "Hi"}, "segment 1 is no record with text and label"),
    "no segment": ({"segments": []}, "has no answer: no segment with text is labelled true"),
    "no text": ({"segments": [{"label": True}]}, "segment 1: field 'text' holds NoneType, not te"),
    "labelled": ({"segments": [{"text": "Hi", "label": False}]}, "has no answer: no segment with"),
}


def test_segments_are_joined_as_they_are(tmp_path):
    pieces = [("Where? ", False), ("日本", True), ("", True), ("\nAnd? ", False), ("Here\n", True)]
    record = {"segments": [{"text": text, "label": label} for text, label in pieces]}
    found = read(write(tmp_path / "a.jsonl", [record] * 2))
    assert [x.decode() for x in found] == ["Where? 日本\nAnd? Here\n"] * 2
    assert [answers(x) for x in found] == [["日本", "Here\n"]] * 2


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_one_line(tmp_path, case):
    record, message = BROKEN[case]
    file = write(tmp_path / "a.jsonl", [record] * 2)
    with pytest.raises(UserError, match=message) as error:
        read(file)
    assert "\n" not in str(error.value) and "a.jsonl, line 1" in str(error.value)


def test_text_is_no_dialogue_and_dialogues_are_no_text_unnoticed(tmp_path):
    (tmp_path / "a.txt").write_text("text\n" * 9)
    with pytest.raises(UserError, match="a.txt has no records; data.format=messages takes JSON"):
        read(tmp_path / "a.txt")
    for name, record in {"a.jsonl": RECORDS[0], "b.jsonl": PAIRS["prompt"]}.items():
        file = write(tmp_path / name, [record] * 2)
        with pytest.raises(UserError, match="or data.format=messages, which learns the answers"):
            read(file, format="auto")
    for settings in ({"tfds": "pg19"}, {"path": "a", "passkey": True}, {}):
        with pytest.raises(UserError, match="data.format=messages reads records of data.path"):
            DataConfig(format="messages", **settings)


def expected_targets(text, spans):
    """By hand: for each token of [END] + text, what it predicts."""
    targets = [IGNORE] * (len(text) + 1)
    for start, stop in spans:
        targets[start:stop] = text[start:stop]
        targets[stop] = END
    return targets


def test_targets_are_the_answers_and_their_ends(tmp_path):
    dialogues = [render([("user", b"Hi"), ("assistant", b"Yes.")]), *read_all(tmp_path)]
    corpus = build_corpus(lambda: iter(dialogues), ByteTokenizer(), tmp_path / "c", "train", "s")
    expected = [expected_targets(text, text.answers) for text in dialogues]
    assert corpus.targets(slice(0, corpus.num_tokens)).tolist() == sum(expected, [])
    # what is read is all of the text
    assert bytes(t for t in corpus.tokens.tolist() if t != END) == b"".join(dialogues)
    scored = sum(target != IGNORE for target in sum(expected, []))
    assert f"({scored:,} of answers)" in corpus.describe
    # the control: without the places of answers all is learned
    plain = build_corpus(
        lambda: map(bytes, dialogues), ByteTokenizer(), tmp_path / "d", "train", "s"
    )
    assert (plain.targets(slice(0, plain.num_tokens)) != IGNORE).all()
    assert plain.digest != corpus.digest and plain.learned is None


def read_all(folder):
    return read(write(folder / "a.jsonl", RECORDS))


def test_other_answers_in_the_same_text_are_another_corpus(tmp_path):
    text, found = b"abcdef", []
    for index, spans in enumerate([[(1, 3)], [(1, 4)]]):
        one = [Dialogue(text, spans)]
        folder = tmp_path / str(index)
        found.append(build_corpus(lambda one=one: iter(one), ByteTokenizer(), folder, "t", "s"))
    assert found[0].digest != found[1].digest


def test_answers_are_tokens_of_their_own(tmp_path):
    """As in a chat, where the prompt ends before the model writes."""
    dialogues = [render([("user", b"the cat"), ("assistant", b"the cat sat on the mat")])] * 30
    tokenizer = BPETokenizer.train(iter(dialogues), 300)
    corpus = build_corpus(lambda: iter(dialogues), tokenizer, tmp_path, "train", "s")
    first = corpus.targets(slice(0, corpus.starts[1]))
    answer = first[first != IGNORE]
    assert answer.tolist() == [*tokenizer.encode(b"the cat sat on the mat"), tokenizer.end]


def test_held_out_bytes_are_those_of_the_answers(tmp_path):
    dialogues = read_all(tmp_path)
    corpus = build_corpus(lambda: iter(dialogues), ByteTokenizer(), tmp_path / "c", "heldout", "s")
    lanes = HeldoutLanes(corpus, 2, 16, 10_000, ByteTokenizer())
    targets = np.concatenate([batch["targets"] for batch in lanes], axis=1)
    said = [text.encode() for text in sum(ANSWERS, [])]
    assert sorted(lanes.texts()) == sorted(
        b"".join(text.encode() for text in several) for several in ANSWERS
    )
    assert lanes.num_bytes == sum(map(len, said))
    assert (targets != IGNORE).sum() == lanes.num_bytes + len(said)


def test_a_resumed_run_reads_the_same_answers(tmp_path):
    records = [{"prompt": f"{i}?", "completion": f"{i} and {i}"} for i in range(40)]
    data = DataConfig(path=str(write(tmp_path / "a.jsonl", records)), format="messages")
    model = RMATConfig(chunk_len=8)
    config = Config(model=model, data=data, batch_size=2, eval_batch_size=2, eval_tokens=64)
    run = make_data(config, tmp_path / "run")
    again = make_data(config, tmp_path / "run").train.batches(start_step=7)
    for name, values in next(again).items():
        np.testing.assert_array_equal(values, run.train.lanes[7][name])
    # the control: as text the same batch has other targets, on the same tokens
    plain = replace(config, data=replace(data, format="auto", feature="completion"))
    other = make_data(plain, tmp_path / "other")
    assert set(FIELDS) == set(run.train.lanes[7])
    assert (other.train.lanes[0]["targets"] != IGNORE).all()
    assert (run.train.lanes[0]["targets"] == IGNORE).any() and run.identity != other.identity
    with pytest.raises(UserError, match="has changed: it was text"):
        other.check_same(run.identity, tmp_path)
