"""bAbI stretched over chunks: what is read, what is ranked, what is said about it."""

import dataclasses
import json

import numpy as np
import pytest

from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.passages import Distractor, stretch
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.babi.sources import CHUNKS, FEWEST, TOKENS
from rmat_jax.evals.suites.babi.stories import read_tasks
from rmat_jax.evals.suites.babi.suite import babi, check, reach, verdicts
from rmat_jax.evals.suites.babi.trials import Trial, mean, rank
from tests.evals.planted import PlantedEngine, last_place, planted_subject

PLACES = ("garden", "kitchen", "office", "hallway")
TALE = (
    b"It was late. The rain fell on the roofs of the town! Nobody spoke?\n\n"
    b"A long line without a mark\n"
) * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve stories of two questions each; half of the answers are the garden."""
    folder = tmp_path_factory.mktemp("babi")
    rng = np.random.default_rng(0)
    lines = []
    for story in range(12):
        first, second = (
            ("garden", PLACES[1 + story % 3]) if story % 2 else (PLACES[1 + story % 3], "garden")
        )
        other = rng.choice(PLACES)
        lines += [
            f"1 Mary went to the {other}.",
            f"2 John went to the {first}.",
            f"3 Where is John? \t{first}\t2",
        ]
        lines += [f"4 Mary went to the {second}.", f"5 Where is Mary? \t{second}\t4"]
    (folder / "qa1_single-supporting-fact_test.txt").write_text("\n".join(lines) + "\n")
    (folder / "qa10_test.txt").write_text(
        "1 It is so.\n2 Is it so?\tyes\t1\n1 It is not.\n2 Is it so?\tno\t1\n"
    )
    (folder / "qa1_single-supporting-fact_train.txt").write_text("not looked at")
    return folder


def test_stories_are_read_as_they_stand(folder):
    one, ten = read_tasks(str(folder))
    assert (one.number, one.name, ten.name) == (1, "qa1 single supporting fact", "qa10")
    first, second = one.questions[:2]
    assert first.facts[1] == "John went to the kitchen." and len(first.facts) == 2
    # a question is no fact
    assert second.facts == (*first.facts, "Mary went to the garden.")
    assert (second.text, second.answer, second.story) == ("Where is Mary?", "garden", 0)
    assert one.questions[2].story == 1 and len(one.questions[2].facts) == 2
    assert one.candidates == tuple(sorted(PLACES)) and one.majority == "garden"
    assert ten.candidates == ("no", "yes") and len(ten.questions) == 2


def test_facts_stay_in_order_between_exactly_so_much_other_text():
    tokenizer, rng = ByteTokenizer(), np.random.default_rng(1)
    other = Distractor([TALE], tokenizer)
    facts = [f"Fact {number}.\n" for number in range(5)]
    seen = set()
    for tokens in [0, 1, 40, 300, 3000]:
        passage = other.passage(tokens, rng)
        assert sum(map(len, passage)) == tokens
        read = tokenizer.decode(
            stretch([tokenizer.encode(fact.encode()) for fact in facts], passage, rng)
        ).decode()
        places = [read.index(fact) for fact in facts]
        assert places == sorted(places) and len(read) == tokens + sum(map(len, facts))
        rest = read
        for fact in facts:
            rest = rest.replace(fact, "")
        # whole and in its order
        assert rest.encode() in TALE * 12
        # A fact begins a line, or stands behind a sentence or the cut one.
        assert all(place == 0 or read[place - 1].isspace() for place in places)
        seen.add(tuple(places))
    assert len(seen) == 5
    # it begins at different sentences
    assert len({len(other.passage(50, rng)[0]) for _ in range(20)}) > 1


def test_a_distractor_needs_text():
    with pytest.raises(UserError, match="no text to put between the facts"):
        Distractor([b"", b" \n\n "], ByteTokenizer())
    # a sentence without end
    assert Distractor([b"x" * 1000], ByteTokenizer()).num_tokens == 1000


def test_the_likeliest_answer_ranks_first():
    engine = PlantedEngine(last_place)
    session = engine.open(b"John went to the office.\nWhere is John?")
    (found,) = rank(engine, [session], PLACES)
    assert found.best == PLACES.index("office")
    assert found.greedy.tolist() == [False, False, True, False]
    share = np.exp(-1) / (np.exp(-1) + 3 * np.exp(-3))
    assert found.bits(found.best) == pytest.approx(-np.log2(share))
    assert found.bits(0) == pytest.approx(-np.log2(np.exp(-2) * share))


def test_a_model_that_remembers_is_seen_to(folder, tmp_path):
    subject = planted_subject(last_place, [TALE])
    section = babi(subject, Options(babi=str(folder), examples=50, max_tokens=64), tmp_path)
    one = section.values["tasks"]["qa1 single supporting fact"]
    # 16 chunks are beyond max_tokens
    assert list(one["stretches"]) == [0, 1, 2, 4, 8] and one["questions"] == 24
    assert one["kept"]["value"] == one["exact"]["value"] == 1
    assert one["emptied"]["value"] == one["alone"]["value"] == one["majority"]["value"] == 0.5
    assert one["chance"] == 0.25 and one["saved"]["value"] > 0
    assert "**Its memory helps:** +" in section.text
    assert "up to 8 chunks of other text" in section.text
    assert {file.name for file in tmp_path.iterdir()} == {"babi_tasks.png", "babi_stretches.png"}
    # All questions of a task are asked of the same texts, however many are asked.
    read = {session.text for session in subject.made.opened}
    few = planted_subject(last_place, [TALE])
    babi(few, Options(babi=str(folder), examples=1, max_tokens=64), tmp_path)
    assert {session.text for session in few.made.opened} <= read


def test_a_model_that_forgets_is_seen_to(folder, tmp_path):
    """The control: it looks at the last 40 bytes only."""
    subject = planted_subject(lambda known: last_place(known[-40:]), [TALE])
    section = babi(subject, Options(babi=str(folder), examples=50, max_tokens=512), tmp_path)
    cells = section.values["tasks"]["qa1 single supporting fact"]["stretches"]
    assert cells[0]["kept"]["value"] == 1 and cells[64]["kept"]["value"] < 0.7
    assert "Not even without" not in section.text and "up to 64 chunks" not in section.text


def test_a_model_without_memory_has_none_to_judge(folder, tmp_path):
    subject = planted_subject(last_place, [TALE], has_memory=False)
    section = babi(subject, Options(babi=str(folder), examples=4, max_tokens=8), tmp_path)
    assert "This model has no memory." in section.text and "emptied" not in section.headline
    assert "emptied" not in section.values["all"]


def trials(kept, **changes):
    base = Trial(0, 0, 0, True, False, False, True, False, False, 0.5)
    return [
        dataclasses.replace(base, story=i // 2, kept=value, **changes)
        for i, value in enumerate(kept)
    ]


def test_verdicts_follow_the_numbers():
    right, luck = (
        trials([True] * 39 + [False]),
        trials([True, False, False, False, False, True, False, False] * 5),
    )
    assert "**Its answer is better than always" in verdicts(right, CHUNKS, True)
    lucky = verdicts(
        [
            dataclasses.replace(t, majority=i % 4 == 1, emptied=i % 4 == 3)
            for i, t in enumerate(luck)
        ],
        CHUNKS,
        True,
    )
    assert "**Its answer is not measurably better than always" in lucky
    assert "**Its memory does not help measurably:** +0.0000" in lucky
    worse = [dataclasses.replace(t, kept=False, emptied=True, saved=-1.0) for t in right]
    assert verdicts(worse, CHUNKS, True).count("**Its memory does not help:** -1.0000") == 2
    assert "Not even without" in reach(worse, CHUNKS)
    far = [dataclasses.replace(t, stretch=2) for t in right] + [
        dataclasses.replace(t, stretch=8) for t in worse
    ]
    assert "up to 2 chunks" in reach(far + right, CHUNKS)


def test_questions_of_a_story_are_one_unit():
    of = trials([True, True, False, False])
    assert mean(of).units == 2 and mean(of).value == 0.5
    assert mean(of).error == pytest.approx(np.sqrt(2 * (1 + 1)) / 4)
    # the control
    assert mean([dataclasses.replace(t, task=i) for i, t in enumerate(of)]).units == 4
    assert mean(of, "kept", "majority").value == 0.5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("2 John is here.\n", "line 1: .* must begin with 1"),
        ("1 John is here.\n\n3 Where?\there\t1\n", "line 3: .* must begin with 1 or 2"),
        ("1 John is here.\n2\n", "line 2"),
        ("John is here.\n", "line 1: 'John is here.' must begin"),
        ("1 Where is John?\there\t1\n", "line 1: .* must have facts before it"),
        ("1 John is here.\n2 Where is John?\t\t1\n", "line 2: .* a question and its answer"),
        ("1 John is here.\n", "has no question"),
    ],
)
def test_other_files_are_one_clear_line(tmp_path, lines, message):
    (tmp_path / "qa1_test.txt").write_text(lines)
    with pytest.raises(UserError, match=message) as caught:
        check(None, Options(babi=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_missing_folders_and_files(tmp_path):
    for value, message in [
        (None, "babi=None must name"),
        (str(tmp_path / "no"), "No such file"),
        (str(tmp_path), "no file named like qa1"),
    ]:
        with pytest.raises(UserError, match=message):
            read_tasks(value)


def test_far_stretches_have_fewer_questions_and_cost_alike(folder, tmp_path):
    subject = planted_subject(last_place, [TALE])
    options = Options(babi=str(folder), examples=24, max_tokens=8 * 1024)
    section = babi(subject, options, tmp_path)
    cells = section.values["tasks"]["qa1 single supporting fact"]["stretches"]
    assert list(cells)[-3:] == [64, 256, 1024]
    # a story has two questions
    assert [of["kept"]["units"] for of in cells.values()][:8] == [12] * 8
    assert all(FEWEST / 2 <= cells[far]["kept"]["units"] <= FEWEST for far in (256, 1024))
    assert section.values["tasks"]["qa1 single supporting fact"]["questions"] == 24
    assert "Stretches beyond 64 chunks have proportionately fewer questions" in section.text
    # the control: all fit
    near = babi(subject, dataclasses.replace(options, max_tokens=512), tmp_path)
    assert "proportionately" not in near.text


def babilong(path, texts, question="Where is {}?"):
    """Rows on Mary and John, of whom each text tells where they went."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, text in enumerate(texts):
        place = PLACES[index % 4]
        told = f"{text} Mary went to the {place}. {text} John went to the {PLACES[index % 3]}."
        rows.append({"input": told, "question": question.format("Mary"), "target": place})
    if path.suffix == ".parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows))
    return rows


def test_published_files_are_read_as_they_lie(tmp_path):
    for task in (1, 2):
        babilong(tmp_path / f"data/qa{task}/0k.json", ["It rained."] * 8)
    rows = babilong(tmp_path / "4k/qa1-00000-of-00001.parquet", ["It rained all day."] * 4)
    # the same once more, and a length that is too long, and what a download leaves
    babilong(tmp_path / "qa1/4k-00000-of-00001.parquet", ["It rained."] * 9)
    babilong(tmp_path / "data/qa1/1M.json", ["It rained."])
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/qa3_1k.json").write_text("no")
    subject = planted_subject(last_place)
    options = Options(babi=str(tmp_path), max_tokens=4096)
    section = babi(subject, options, tmp_path)
    tasks = section.values["tasks"]
    assert list(tasks) == ["qa1", "qa2"]
    assert list(tasks["qa1"]["stretches"]) == [0, 4096] and list(tasks["qa2"]["stretches"]) == [0]
    assert tasks["qa1"]["stretches"][4096]["kept"] == {"value": 1.0, "error": 0.0, "units": 4}
    # what it says when it knows nothing is right once in four
    assert tasks["qa1"]["stretches"][4096]["emptied"]["value"] == 0.25
    read = {session.text.decode() for session in subject.made.opened}
    asked = "\nWhere is Mary?"
    assert {row["input"] + asked for row in rows} <= read
    assert "right in texts of 0 to 4k tokens" in section.headline
    assert "up to texts of 4k tokens" in section.text
    assert "| qa2 | 8 | 0.25 | 0.25 | 0.25 | 1.00 (0.25) |  |" in section.text
    assert "without BABILong's instructions" in section.text
    few = babi(subject, dataclasses.replace(options, examples=2), tmp_path)
    assert few.values["tasks"]["qa1"]["questions"] == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qa1/1k.json", '[{"input": "x", "question": "y"}]', "qa1/1k.json.*must have the texts"),
        ("qa1/1k.json", '["x"]', "record 1: a row must have the texts input, question, target"),
        ("qa1/1M.json", "[]", "no text of max_tokens=65536 or less; the shortest has 1,048,576"),
        ("qa1/others.json", "[]", "no file named like qa1.*or BABILong's"),
    ],
)
def test_damaged_published_files_are_one_clear_line(tmp_path, name, text, message):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        check(planted_subject(last_place), Options(babi=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_task_that_lacks_a_length_has_no_number_there():
    assert np.isnan(mean([]).value) and mean([]).units == 0
    assert TOKENS.label(128 << 10) == "128k" and TOKENS.label(0) == "0"
