"""Questions on documents: each is asked three ways, and what is said follows the numbers."""

import json

import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_QUESTIONS
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.answers import overlap, qa, summary
from rmat_jax.evals.suites.answers.ask import Answer, ask
from rmat_jax.evals.suites.answers.compare import bits_per_byte, compare, of_others, saved
from rmat_jax.evals.suites.answers.questions import Asked, Item
from tests.evals.planted import last_place, planted_subject

PLACES = ("kitchen", "office", "hallway")


def items(count=11):
    """Documents with two questions each, whose right answers only they tell."""
    found = []
    for number in range(count):
        one, two = PLACES[number % 3], PLACES[(number + 1) % 3]
        text = f"Mary went to the {one}. John went to the {two}. " + "It rained. " * number
        found.append(
            Item(
                (text,),
                (Asked("Where is Mary?", (one,)), Asked("Where is John?", (two, "nowhere"))),
            )
        )
    return found


def asked_of(subject, of):
    return ask(subject, of, prompt=qa.prompt, room=lambda asked: 20, stop=("\n",), name="test")


def test_each_document_is_read_once_and_asked_three_ways():
    subject, of = planted_subject(last_place), items()
    answers = asked_of(subject, of)
    assert [
        session.text.decode() for session in subject.made.opened if session.text[:2] != b"\n\n"
    ] == [item.text for item in of]
    assert len(answers) == 22 and {answer.document for answer in answers} == set(range(11))
    for answer in answers:
        right = answer.asked.references[0]
        # The planted model costs one nat where it knows, three where it says "garden".
        assert answer.bits[KEPT] == pytest.approx(1 / np.log(2))
        assert answer.bits[EMPTIED] == answer.bits[ALONE] == pytest.approx(3 / np.log(2))
        assert answer.written == {KEPT: right, EMPTIED: "garden", ALONE: "garden"}
        assert answer.num_bytes == 1 + len(right)
        assert answer.tokens == 1 + len(of[answer.document].text)
        assert right in of[answer.document].text


def test_a_model_without_memory_is_asked_two_ways():
    answers = asked_of(planted_subject(last_place, has_memory=False), items(2))
    assert list(answers[0].bits) == [KEPT, ALONE]
    text, values = compare(answers, qa.TASK.scores, {})
    assert "This model has no memory." in text and OF_QUESTIONS[EMPTIED] not in values["means"]


def test_probabilities_that_are_no_numbers_are_an_error():
    subject = planted_subject(last_place)
    costs = subject.made.costs
    subject.made.costs = lambda asked: [
        cost._replace(nats=cost.nats * np.nan) for cost in costs(asked)
    ]
    with pytest.raises(UserError, match="NaN"):
        asked_of(subject, items(1))


def answer(document, size, kept, alone, written="x", reference="x"):
    bits = {KEPT: kept, EMPTIED: alone, ALONE: alone}
    return Answer(
        Asked("?", (reference,)), document, 100, size, bits, {KEPT: written, EMPTIED: "", ALONE: ""}
    )


def test_bits_by_hand():
    answers = [answer(0, 4, 8.0, 10.0), answer(0, 2, 2.0, 6.0), answer(1, 6, 6.0, 6.0)]
    assert bits_per_byte(answers, KEPT) == pytest.approx(16 / 12)
    gain = saved(answers, ALONE)
    assert gain.value == pytest.approx(6 / 12) and gain.units == 2
    # Document 0 saves 6 bits on 6 bytes, document 1 none on 6: each is 3 from half a bit a byte.
    assert gain.error == pytest.approx(np.sqrt(2 * (9 + 9)) / 12)


def test_luck_is_the_answer_to_another_document():
    answers = [answer(0, 1, 1, 1, reference=r) for r in "ab"] + [answer(1, 1, 1, 1, reference="c")]
    assert of_others(answers) == ["c", "c", "a"]
    assert of_others(answers[:2]) == ["", ""]


def test_comparison_has_the_numbers_in_their_places():
    answers = [
        answer(i, 2, 2.0 + i % 2, 6.0, written="milk" if i else "x", reference="milk")
        for i in range(12)
    ]
    text, values = compare(answers, qa.TASK.scores, {"luck": ["milk"] * 6 + ["x"] * 6})
    assert values["means"][OF_QUESTIONS[KEPT]] == pytest.approx(
        {"bits per byte": 30 / 24, "exact match": 11 / 12, "token F1": 11 / 12}
    )
    assert values["means"]["luck"] == pytest.approx({"exact match": 0.5, "token F1": 0.5})
    assert values["gains"]["luck"]["token F1"].value == pytest.approx(5 / 12)
    assert "| document in memory | 1.250 | 0.917 | 0.917 |" in text
    assert "**Its memory helps:** +1.7500 ±" in text and "over 12 documents" in text
    assert "**Its text is better than luck:** +0.4167 ±" in text
    worse, _ = compare(
        [answer(i, 2, 6.0, 2.0 + i % 2) for i in range(12)], qa.TASK.scores, {"luck": ["x"] * 12}
    )
    assert "**Its memory does not help:** -1.7500 ±" in worse
    assert "**Its text is not measurably better than luck:** +0.0000" in worse
    single, _ = compare([answer(0, 2, 1.0, 2.0)], qa.TASK.scores, {})
    assert "cannot be told from one of the documents whether its memory helps" in single


def write(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def test_qa_of_a_model_that_remembers(tmp_path):
    records = []
    for item in items():
        one = item.asked[0]
        documents = item.text.split("John", 1)
        records.append(
            {"documents": documents, "question": one.question, "answer": one.references[0]}
        )
    options = Options(qa=write(tmp_path / "a.jsonl", records), examples=10)
    section = qa.qa(planted_subject(last_place), options, tmp_path)
    assert section.values["questions"] == section.values["documents"] == 10
    means = section.values["means"]
    assert means[OF_QUESTIONS[KEPT]]["exact match"] == 1
    assert means[OF_QUESTIONS[EMPTIED]]["exact match"] == 0
    assert "**Its memory helps:**" in section.text and "token F1 1.000" in section.headline
    assert "each of 2 to 2 texts" in section.text
    assert (tmp_path / "qa_length.png").stat().st_size > 1000


def test_summary_beside_the_beginning_of_the_document(tmp_path):
    """The planted model sums up in the document's last sentence, which is the reference; the
    beginning is something else.
    """
    records = [
        {
            "document": f"It rained on day {i}. " * 5 + f"Number {i} won",
            "summary": f"Number {i} won",
        }
        for i in range(12)
    ]

    def last_sentence(known):
        document, _, asked = known.rpartition(b"\n\n")
        assert asked == b"Summary:"
        return document.rpartition(b". ")[2].decode()

    options = Options(summary=write(tmp_path / "a.jsonl", records), examples=50)
    section = summary.summary(planted_subject(last_sentence), options, tmp_path)
    means = section.values["means"]
    assert means[OF_QUESTIONS[KEPT]]["ROUGE-L"] == 1
    assert means[OF_QUESTIONS[ALONE]]["ROUGE-L"] == 0
    leads = [record["document"][: len(record["summary"])] for record in records]
    expected = np.mean(
        [overlap.rouge_l(lead, r["summary"]) for lead, r in zip(leads, records, strict=True)]
    )
    assert means[summary.LEAD]["ROUGE-L"] == pytest.approx(expected) and expected < 0.5
    assert means[summary.OTHER]["ROUGE-1"] == pytest.approx(2 / 3)
    assert "**Its text is better than the document's beginning:**" in section.text
    assert (tmp_path / "summary_length.png").stat().st_size > 1000


@pytest.mark.parametrize("suite", [qa, summary])
def test_bad_files_are_found_before_anything_is_read(suite, tmp_path):
    name = suite.__name__.rpartition(".")[2]
    with pytest.raises(UserError, match=f"{name}=.*, line 1 is not JSON"):
        (tmp_path / "a.jsonl").write_text("no\n")
        suite.check(None, Options(**{name: str(tmp_path / "a.jsonl")}))
