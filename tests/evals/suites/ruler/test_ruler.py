"""RULER's tasks can be solved from what they tell and from nothing less, and are scored as RULER
scores.
"""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest

from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_QUESTIONS
from rmat_jax.evals.report import plain
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.answers.ask import Answer
from rmat_jax.evals.suites.answers.questions import Asked
from rmat_jax.evals.suites.ruler.score import GUESS, OTHER, mean, score, scored
from rmat_jax.evals.suites.ruler.stock import Sample, Stock
from rmat_jax.evals.suites.ruler.suite import check, describe, ruler
from rmat_jax.evals.suites.ruler.tasks import TASKS, lengths, made, read
from tests.evals.planted import planted_subject

TEXT = """
    morning winter letters garden window silver station captain marble river lantern thunder
    orchard velvet harbour mirror candle bridge summer forest journey copper
"""
WORDS = TEXT.split()
TALE = " ".join(f"The {first} saw a {second}." for first in WORDS for second in WORDS).encode()


@pytest.fixture(scope="module")
def stock():
    return Stock([TALE], ByteTokenizer())


def solve(known: bytes) -> str:
    """Answers the last question from the text before it; a perfect reader."""
    text, _, question = known.decode().rpartition("\nQuestion: ")
    # an example stands before the task
    text = text.rpartition("\n\n")[2]
    if "hidden" in question:
        kind, of = re.search(r"hidden (\w+?)s? of (.*)\? Answer", question).groups()
        found = []
        for key in re.split(", | and ", of):
            found += re.findall(rf"The hidden {kind} of {re.escape(key)} is (\S+)\.", text)
        return ", ".join(found)
    if "variables" in question:
        values = {}
        for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text):
            values[name] = values.get(value, value)
        asked = re.search(r"have the value (\d+)", question)[1]
        return ", ".join(name for name, value in values.items() if value == asked)
    if "list" in question:
        items = re.findall(r"\d+\. (\S+)", text)
        return ", ".join(word for word, _ in collections.Counter(items).most_common(10))
    words = [word for word in text.partition("\n")[2].split() if word != "..."]
    return ", ".join(word for word, _ in collections.Counter(words).most_common(3))


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_fits_its_length_and_a_perfect_reader_solves_it(name, stock):
    for length in (1024, 4096):
        for seed in range(4):
            sample = TASKS[name](stock, name, length, np.random.default_rng(seed))
            if sample is None:
                # a list of words takes 70 items
                assert (name, length) == ("cwe", 1024)
                continue
            prompt = f"{sample.context}\n{sample.question}"
            taken = len(prompt) + 2 * len(f" {sample.answer}")
            # full but for a piece of the haystack, or of what is counted
            assert length - 400 < taken <= length, (name, length, taken)
            assert sorted(solve(prompt.encode()).split(", ")) == sorted(sample.outputs)
            assert (sample.task, sample.length) == (name, length)
            # the control: the question does not tell its answer
            assert score(name, solve(f"\n{sample.question}".encode()), sample.outputs) == 0
    assert TASKS[name](stock, name, 100, np.random.default_rng(0)) is None


def test_tasks_are_those_of_the_recipe(stock):
    def sample(name):
        return TASKS[name](stock, name, 4096, np.random.default_rng(1))

    told = {name: len(re.findall("The hidden", sample(name).context)) for name in TASKS}
    assert [told[f"niah_single_{n}"] for n in (1, 2, 3)] == [1, 1, 1]
    assert told["niah_multikey_1"] == told["niah_multivalue"] == told["niah_multiquery"] == 4
    # nothing but needles
    assert min(told["niah_multikey_2"], told["niah_multikey_3"]) > 20
    for name in ("niah_multikey_2", "niah_multikey_3"):
        assert sample(name).candidates == told[name]
    asked = {name: len(sample(name).outputs) for name in TASKS}
    assert asked == dict.fromkeys(TASKS, 1) | {
        "niah_multivalue": 4,
        "niah_multiquery": 4,
        "vt": 5,
        "cwe": 10,
        "fwe": 3,
    }
    assert sample("niah_single_1").context.count("The road is long.") > 20
    assert sample("niah_single_2").context.count(" saw a ") > 50
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-.*", sample("niah_single_3").answer)
    assert re.fullmatch(r"\d{7}", sample("niah_single_1").answer)
    # needles stand anywhere
    places = {
        TASKS["niah_single_2"](stock, "x", 4096, np.random.default_rng(seed)).context.index(
            "hidden n", 60
        )
        // 1024
        for seed in range(20)
    }
    assert places == {0, 1, 2, 3}


def test_a_small_stock_of_words_makes_no_wrong_prompt(stock):
    """The stock has 484 pairs of words, fewer than a haystack has needles."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sample = TASKS["niah_multikey_2"](stock, "x", 1 << 16, rng)
        assert sample.candidates > 1000
        assert solve(f"{sample.context}\n{sample.question}".encode()) == sample.answer
    # 264 words and pairs make a list of 21,000 bytes
    assert TASKS["cwe"](stock, "cwe", 1 << 14, np.random.default_rng(0)) is not None
    assert TASKS["cwe"](stock, "cwe", 1 << 16, np.random.default_rng(0)) is None


def test_lengths_cost_alike_and_a_prompt_is_always_the_same(stock):
    options = Options(max_tokens=8192, examples=12)
    assert lengths(options) == [1024, 4096, 8192]
    counts = collections.Counter((one.task, one.length) for one in made(stock, options))
    assert counts["niah_single_1", 1024] == 12
    assert counts["niah_single_1", 4096] == counts["niah_single_1", 8192] == 8
    few = list(made(stock, dataclasses.replace(options, examples=1, max_tokens=1024)))
    assert [one for one in made(stock, options) if one in few] == few
    assert len({one.task for one in few}) == 10
    other = list(made(stock, dataclasses.replace(options, examples=1, max_tokens=1024, seed=1)))
    assert not set(few) & set(other)


def test_a_model_that_remembers_is_seen_to(tmp_path):
    subject = planted_subject(solve, [TALE])
    section = ruler(subject, Options(max_tokens=4096, examples=2), tmp_path)
    rows = section.values["rows"]
    assert list(rows) == [*TASKS, "all"] and list(rows["vt"]["lengths"]) == [1024, 4096]
    assert list(rows["cwe"]["lengths"]) == [4096]
    for row in rows.values():
        assert row["scores"][OF_QUESTIONS[KEPT]].value == 1
        assert row["scores"][OF_QUESTIONS[EMPTIED]].value == 0
        assert row["scores"][OF_QUESTIONS[ALONE]].value == 0
    assert rows["niah_multiquery"][OTHER] == rows["vt"][OTHER] == rows["fwe"][OTHER] == 0
    # few words
    assert 0 < rows["cwe"][OTHER] < 1
    assert rows["niah_multikey_1"][GUESS] == 0.25 and rows["vt"][GUESS] == 1
    assert len(section.values["answers"]) == 2 * 2 * len(TASKS) - 2
    first = section.values["answers"][0]
    assert first["written"][OF_QUESTIONS[KEPT]] == ", ".join(first["outputs"])
    assert first["scores"][OF_QUESTIONS[EMPTIED]] == 0 and first["tokens"] < 1024
    assert "**Its memory helps:** +1.0000 ± 0.0000 of score" in section.text
    assert "up to prompts of 4,096 tokens" in section.text
    assert "| 1.00 ± 0.00 (0.00) | 1.00 ± 0.00 (0.00) | 0.00 | 0.00 | 1.00 |" in section.text
    assert "| cwe | 2 | – | 1.00 ± 0.00 (0.00) |" in section.text
    assert "score is 1.000" in section.headline and "\n" not in section.headline
    assert (tmp_path / "ruler.png").stat().st_size > 1000
    json.dumps(plain(section.values), allow_nan=False)


def test_a_model_that_forgets_is_seen_to(tmp_path):
    """The control: it looks at the last 900 bytes only."""
    subject = planted_subject(lambda known: solve(known[-900:]), [TALE])
    section = ruler(subject, Options(max_tokens=4096, examples=4), tmp_path)
    near, far = section.values["rows"]["niah_single_2"]["lengths"].values()
    kept = OF_QUESTIONS[KEPT]
    assert near["scores"][kept].value > far["scores"][kept].value
    # it writes something else
    assert far["scores"][kept].value < 1 and "1.000" not in section.headline


def test_a_model_without_memory_and_a_single_example(tmp_path):
    subject = planted_subject(solve, [TALE], has_memory=False)
    section = ruler(subject, Options(max_tokens=1024, examples=1), tmp_path)
    assert "This model has no memory." in section.text
    assert OF_QUESTIONS[EMPTIED] not in section.values["rows"]["all"]["scores"]
    assert "nan" not in section.text and "1.00 (error unknown)" in section.text
    assert OTHER not in section.headline


def found(outputs, kept, emptied, task="x", candidates=None):
    bits = dict.fromkeys((KEPT, EMPTIED, ALONE), 1.0)
    written = {KEPT: kept, EMPTIED: emptied, ALONE: ""}
    sample = Sample(task, 10, "c", "q", outputs, candidates)
    return sample, Answer(Asked("q", ("a",)), 0, 5, 1, bits, written)


def of_all(pairs):
    samples, answers = zip(*pairs, strict=True)
    answers = [dataclasses.replace(a, document=i) for i, a in enumerate(answers)]
    # as `ask` returns them
    return scored(samples, answers[::-1])


def test_scores_by_hand(tmp_path):
    assert score("vt", "ab, CD", ("AB", "cd", "ef")) == pytest.approx(2 / 3)
    # RULER's questions want one of the outputs
    assert score("qa_1", "ab", ("AB", "cd")) == 1 and score("qa_1", "x", ("AB", "cd")) == 0
    both = of_all([found(("a",), "a", "x"), found(("b", "a"), "b", "b", candidates=8)])
    assert [one.scores[KEPT] for one in both] == [1, 0.5]
    # each against what would be right for the other
    assert [one.other for one in both] == [1, 0.5]
    assert [one.guess for one in both] == [pytest.approx(np.nan, nan_ok=True), 0.25]
    assert mean(both, KEPT).value == 0.75 and mean(both, KEPT, EMPTIED).value == 0.5
    alone = of_all([found(("a",), "a", "x"), found(("b",), "b", "x", task="y")])
    assert all(np.isnan(one.other) for one in alone)
    worse = of_all([found((f"{i}",), "x", f"{i}") for i in range(12)])
    section = describe(worse, True, "How.", tmp_path)
    assert "**Its memory does not help:** -1.0000" in section.text
    assert "Already at 10 tokens its memory does not help measurably" in section.text


def publish(file, records):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


PROMPT = {"index": 0, "input": "Remember.\nx is 7.\nWhat is x? It", "outputs": ["7"], "length": 30}


def test_published_files_are_read_as_they_lie(tmp_path):
    publish(tmp_path / "4096/data/niah_single_1/validation.jsonl", [PROMPT] * 3)
    parted = PROMPT | {"input": "Remember.\nx is 7.\nWhat is x?", "answer_prefix": " It"}
    publish(tmp_path / "8192/data/vt/validation.jsonl", [parted])
    publish(tmp_path / "qa_1.jsonl", [PROMPT, PROMPT | {"length": 1000, "outputs": ["7", "8"]}])
    options = Options(max_tokens=8192, examples=2)
    samples = read(str(tmp_path), options)
    assert [(one.task, one.length) for one in samples] == [
        *[("niah_single_1", 4096)] * 2,
        *[("qa_1", 1000)] * 2,
        ("vt", 8192),
    ]
    assert {(one.context, one.question) for one in samples} == {
        ("Remember.\nx is 7.", "What is x? It")
    }
    assert len(read(str(tmp_path), dataclasses.replace(options, max_tokens=4096))) == 4
    subject = planted_subject(lambda known: "seven 7" if b"x is 7" in known else "no")
    section = ruler(subject, dataclasses.replace(options, ruler=str(tmp_path)), tmp_path)
    scores = section.values["rows"]["vt"]["scores"]
    # the answer is cut to the room of the right one: twice " 7"
    assert scores[OF_QUESTIONS[KEPT]].value == 0
    subject = planted_subject(lambda known: "7" if b"x is 7" in known else "no")
    section = ruler(subject, dataclasses.replace(options, ruler=str(tmp_path)), tmp_path)
    scores = section.values["rows"]["all"]["scores"]
    assert scores[OF_QUESTIONS[KEPT]].value == 1 and scores[OF_QUESTIONS[EMPTIED]].value == 0
    assert section.values["rows"]["all"][OTHER] == pytest.approx(np.nan, nan_ok=True)
    one = str(tmp_path / "qa_1.jsonl")
    assert [sample.task for sample in read(one, options)] == ["qa_1", "qa_1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "x is 7. What is x?"}, "record 1: the question must stand in the last line"),
        ({"input": None}, "record 1: a record must have the texts input and outputs"),
        ({"outputs": []}, "record 1: a record must have the texts input and outputs"),
        ({"outputs": [" "]}, "record 1: a record must have the texts input and outputs"),
        ({"length": None}, "record 1 has no length, and no folder of its file names one"),
        ({"length": 10**6}, "no prompt of max_tokens=65536 or less; the shortest .* 1,000,000"),
    ],
)
def test_damaged_files_are_one_clear_line(tmp_path, change, message):
    publish(tmp_path / "vt.jsonl", [PROMPT | change])
    with pytest.raises(UserError, match=message) as caught:
        check(None, Options(ruler=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_made_is_an_error(tmp_path):
    subject = planted_subject(solve, [TALE])
    check(subject, Options(max_tokens=1024))
    with pytest.raises(UserError, match="max_tokens=1023 must be at least 1024 for `ruler`"):
        check(subject, Options(max_tokens=1023))
    with pytest.raises(UserError, match="the text has 2 different words of 4 to 10 letters"):
        check(planted_subject(solve, [b"Some text. " * 9]), Options())
    with pytest.raises(UserError, match="no prompt of max_tokens=65536 or less; give RULER's"):
        check(None, Options(ruler=str(tmp_path)))
