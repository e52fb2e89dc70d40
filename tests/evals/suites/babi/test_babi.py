"""bAbI stretched over chunks: what is read, what is ranked, what is said about it."""

import dataclasses

import numpy as np
import pytest

from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.babi.stories import Distractor, read_tasks, stretch
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
    assert "**Its answer is better than always" in verdicts(right, True)
    lucky = verdicts(
        [
            dataclasses.replace(t, majority=i % 4 == 1, emptied=i % 4 == 3)
            for i, t in enumerate(luck)
        ],
        True,
    )
    assert "**Its answer is not measurably better than always" in lucky
    assert "**Its memory does not help measurably:** +0.0000" in lucky
    worse = [dataclasses.replace(t, kept=False, emptied=True, saved=-1.0) for t in right]
    assert verdicts(worse, True).count("**Its memory does not help:** -1.0000") == 2
    assert "Not even without" in reach(worse)
    far = [dataclasses.replace(t, stretch=2) for t in right] + [
        dataclasses.replace(t, stretch=8) for t in worse
    ]
    assert "up to 2 chunks" in reach(far + right)


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
