"""Records in their spellings, and what is drawn of them."""

import gzip
import json

import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.evals.suites.answers.questions import QA, SUMMARY, Asked, Item, draw, load, parse


def asked(schema, record):
    item = parse(schema, record, "here")
    return item.documents, [(one.question, *one.references) for one in item.asked]


def test_spellings_of_questions():
    plain = {"context": "Text.", "question": "Who? ", "answer": "She."}
    assert asked(QA, plain) == (("Text.",), [("Who?", "She.")])
    # both are right
    assert asked(QA, plain | {"answer": ["She.", " Her."]})[1] == [("Who?", "She.", "Her.")]
    assert asked(QA, plain | {"answer": 7})[1] == [("Who?", "7")]
    parallel = {"input": "Text.", "instructions": ["Who?", "Where?"], "outputs": ["She.", "There."]}
    assert asked(QA, parallel)[1] == [("Who?", "She."), ("Where?", "There.")]
    several = {
        "documents": ["One.", {"title": "T", "text": "Two."}],
        "questions": ["Who?"],
        "answers": [["a", "b"]],
    }
    assert asked(QA, several) == (("One.", "T\nTwo."), [("Who?", "a", "b")])
    squad = {
        "context": b"Text.",
        "question": b"Who?",
        "answers": {"text": np.array([b"a", b"b"]), "start": [1, 2]},
    }
    assert asked(QA, squad) == (("Text.",), [("Who?", "a", "b")])
    assert parse(QA, several, "here").text == "One.\n\nT\nTwo."


def test_spellings_of_summaries():
    assert asked(SUMMARY, {"article": "Long.", "highlights": "Short."}) == (
        ("Long.",),
        [("", "Short.")],
    )
    report = {"instructions": ["Sum it up."], "outputs": ["Short."], "input": "Long."}
    assert asked(SUMMARY, report) == (("Long.",), [("Sum it up.", "Short.")])
    meeting = {
        "meeting_transcripts": [
            {"speaker": "A", "content": "Hello."},
            {"speaker": "B", "content": "Bye."},
        ],
        "general_query_list": [{"query": "All?", "answer": "Greetings."}],
        "specific_query_list": [
            {"query": "B?", "answer": "Left.", "relevant_text_span": [["0", "1"]]}
        ],
    }
    expected = (("A: Hello.\nB: Bye.\n",), [("All?", "Greetings."), ("B?", "Left.")])
    assert asked(SUMMARY, meeting) == asked(QA, meeting) == expected


def longbench(dataset, context, input, answers, all_classes=None, language="en"):
    """A record with LongBench's fields."""
    return {
        "input": input,
        "context": context,
        "answers": answers,
        "length": len(context.split()),
        "dataset": dataset,
        "language": language,
        "all_classes": all_classes,
        "_id": "0123456789abcdef",
    }


@pytest.mark.parametrize(
    "record",
    [
        longbench("narrativeqa", "A story.", "Who came?", ["She.", "Her."]),
        longbench("hotpotqa", "Passage 1:\nA\n\nPassage 2:\nB", "Which?", ["A"]),
        longbench("trec", "Question: x\nType: y", "Question: z\nType:", ["City"], ["City", "y"]),
        longbench("samsum", "Dialogue: x\nSummary: y", "Dialogue: z\nSummary: ", ["Short."]),
        longbench("passage_retrieval_en", "Paragraph 1: A", "An abstract.", ["Paragraph 1"]),
        longbench("multifieldqa_zh", "\u6587", "\u8c01?", ["\u5979"], language="zh"),
        longbench("repobench-p", "def f(): pass", "import f", ["f()"]),
    ],
    ids=lambda record: record["dataset"],
)
def test_longbench_asks_its_input_of_its_context(record):
    assert asked(QA, record) == (
        (record["context"],),
        [(record["input"].strip(), *record["answers"])],
    )


@pytest.mark.parametrize("dataset", ["gov_report", "multi_news", "vcsum"])
def test_longbench_sums_up_without_a_question(dataset):
    record = longbench(dataset, "A long report.", "", ["Short."])
    assert asked(SUMMARY, record) == (("A long report.",), [("", "Short.")])
    # what its own instruction would ask is not asked
    assert asked(QA, record)[1] == []
    meeting = longbench("qmsum", "A: Hello.", "What was said?", ["Hello."])
    assert asked(SUMMARY, meeting)[1] == [("What was said?", "Hello.")]


@pytest.mark.parametrize("dataset", ["passage_count", "lcc"])
def test_longbench_files_without_a_question_are_told(tmp_path, dataset):
    file = tmp_path / f"{dataset}.jsonl"
    file.write_text(json.dumps(longbench(dataset, "Text.", "", ["3"])) + "\n")
    with pytest.raises(UserError, match="no document with an answer to it, or no question"):
        load(QA, str(file), 9, 0)


def test_other_records_have_their_document_in_input():
    """The control: LongBench's rule is for records without a question of their own."""
    record = {"input": "Text.", "context": "Other.", "question": "Who?", "answers": ["She."]}
    assert asked(QA, record) == (("Text.",), [("Who?", "She.")])
    assert asked(QA, {"input": "Text.", "questions": ["Who?"], "answers": ["She."]})[0] == (
        "Text.",
    )


def test_parquet_holds_records_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    record = longbench("narrativeqa", "A story.", "Who came?", ["She."])
    parquet.write_table(pyarrow.Table.from_pylist([record] * 2), tmp_path / "a.parquet")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/b.json").write_text("no")
    for path in (tmp_path, tmp_path / "a.parquet"):
        (item,) = load(QA, str(path), 9, 0)
        assert item == Item(("A story.",), (Asked("Who came?", ("She.",)),))


def test_what_has_no_word_is_left_out():
    questions = {
        "context": "Text.",
        "questions": ["Who?", " ", "Where?"],
        "answers": ["", "She.", None],
    }
    assert asked(QA, questions)[1] == []
    assert asked(SUMMARY, questions)[1] == [("", "She.")]
    assert asked(QA, {"context": "\ud800x", "question": "Who?", "answer": "She."})[0] == ("?x",)


@pytest.mark.parametrize(
    ("schema", "record", "message"),
    [
        (QA, [1], "here: a record must be an object, not list"),
        (QA, {"question": "Who?", "answer": "She."}, "here has none of documents, input, context"),
        (QA, {"context": "Text.", "answer": "She."}, "here has none of questions"),
        (QA, {"context": "Text.", "question": "Who?"}, "here has none of answers"),
        (SUMMARY, {"document": "Text."}, "here has none of summaries"),
        (
            QA,
            {"context": "Text.", "questions": ["a", "b"], "answers": ["a"]},
            "here: 2 questions have 1 answers",
        ),
        (
            QA,
            {"context": "Text.", "questions": ["a"], "answers": "a"},
            "here: 1 questions have 1 answers",
        ),
        (QA, {"context": True, "question": "Who?", "answer": "a"}, "must be text, not bool"),
        (
            QA,
            {"context": {"body": "x"}, "question": "Who?", "answer": "a"},
            "must be text, not dict",
        ),
        (SUMMARY, {"document": "x", "general_query_list": ["a"]}, "must have question and answer"),
        (SUMMARY, {"document": "x", "general_query_list": 3}, "must have question and answer"),
    ],
)
def test_other_records_are_one_clear_line(schema, record, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(schema, record, "here")
    assert "\n" not in str(caught.value)


def test_files_are_read_whole_and_documents_once(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [{"context": f"Text {i % 2}.", "question": f"Q{i}", "answer": "a"} for i in range(6)]
    file.write_text("\n\n".join(map(json.dumps, [*lines, lines[0]])))
    items = load(QA, str(file), 10, seed=0)
    assert sorted(item.text for item in items) == ["Text 0.", "Text 1."]
    assert sorted(one.question for item in items for one in item.asked) == [
        f"Q{i}" for i in range(6)
    ]
    file.write_bytes(file.read_bytes() + b"\n\n{broken\n")
    with pytest.raises(
        UserError, match=r"qa='.*a.jsonl', line 15 is not JSON: .*; give a list of records"
    ):
        load(QA, str(file), 1, seed=0)
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="line 1 is not JSON"):
        load(QA, str(file), 1, seed=0)
    file.write_text('{"context": " ", "question": "Who?", "answer": "She."}\n')
    with pytest.raises(UserError, match="has no document with an answer"):
        load(QA, str(file), 1, seed=0)
    for value, message in [
        (None, "summary=None must name"),
        (str(tmp_path / "b"), "does not exist; give a file of"),
    ]:
        with pytest.raises(UserError, match=message):
            load(SUMMARY, value, 1, seed=0)


def test_every_document_before_a_second_question():
    items = [Item((f"{i}",), tuple(Asked(f"{i}.{j}", ("a",)) for j in range(3))) for i in range(4)]
    rng = np.random.default_rng(0)
    chosen = draw(items, 6, rng)
    assert len(chosen) == 4 and sorted(len(item.asked) for item in chosen) == [1, 1, 2, 2]
    assert all(
        one.question == f"{item.text}.{j}" for item in chosen for j, one in enumerate(item.asked)
    )
    assert {tuple(item.text for item in draw(items, 2, rng)) for _ in range(20)} != {("0", "1")}
    assert sum(len(item.asked) for item in draw(items, 100, rng)) == 12


def test_tfds_sets_are_read_by_name():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        (item, *more) = load(SUMMARY, "tfds:multi_news@validation", 3, seed=0)
        assert len(more) == 2 and item.text and item.asked[0].references[0]
        assert load(QA, "tfds:squad", 1, seed=0)[0].asked[0].question
        with pytest.raises(UserError, match="record . of split 'train' has none of"):
            load(QA, "tfds:multi_news", 3, seed=0)
    with pytest.raises(
        UserError, match="qa='tfds:no_such_set' is neither in TFDS nor in TFDS_DATA_DIR"
    ) as caught:
        load(QA, "tfds:no_such_set", 3, seed=0)
    assert "\n" not in str(caught.value)


LOOGLE = {
    "input": "A long text.",
    "title": "T",
    "qa_pairs": "[{'Q': 'Who?', 'A': 'She.', 'S': ['A long text.']}, {'Q': 'When?', 'A': 'Now.'}]",
}
LOCOMO = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Bob",
        "session_2_date_time": "4 May",
        "session_2": [{"speaker": "Bob", "dia_id": "D2:1", "text": "Still here."}],
        "session_1_date_time": "3 May",
        "session_1": [{"speaker": "Ann", "dia_id": "D1:1", "text": "Hello."}],
        "session_3_date_time": "no talk",
    },
    "qa": [
        {"question": "When?", "answer": 3, "evidence": ["D1:1"], "category": 2},
        {"question": "Why?", "adversarial_answer": "No idea.", "category": 5},
    ],
}


def test_published_files_are_read_as_they_are(tmp_path):
    """LooGLE's list within a text; LoCoMo's conversations, one list of them, packed."""
    item = parse(QA, LOOGLE, "here")
    assert item.documents == ("A long text.",)
    assert item.asked == (Asked("Who?", ("She.",)), Asked("When?", ("Now.",)))
    # LooGLE has no question on some texts
    assert parse(QA, LOOGLE | {"qa_pairs": "none"}, "here").asked == ()
    with pytest.raises(UserError, match="must have question and answer"):
        parse(QA, LOOGLE | {"qa_pairs": "[{'Q': 'Who?'}]"}, "here")
    file = tmp_path / "locomo10.json.gz"
    file.write_bytes(gzip.compress(json.dumps([LOCOMO], indent=1).encode()))
    (item,) = load(QA, str(file), 10, seed=0)
    assert item.documents == ("3 May\nAnn: Hello.\n", "4 May\nBob: Still here.\n")
    # what has no answer is not asked
    assert item.asked == (Asked("When?", ("3",)),)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="locomo10.json.gz cannot be read: .*bring back a copy"):
        load(QA, str(file), 10, seed=0)
