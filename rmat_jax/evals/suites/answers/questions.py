"""Reads documents and the questions on them, from JSON lines or TFDS.

The fields may have several names.
"""

import ast
import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.evals.inputs import tfds_records
from rmat_jax.evals.records import json_records
from rmat_jax.evals.suites.dialogue.dialogues import sessions_of

DOCUMENTS = (
    "documents",
    "input",
    "context",
    "document",
    "article",
    "passage",
    "text",
    "meeting_transcripts",
)
QUESTIONS = ("questions", "instructions", "question", "query")
# LongBench's records, whose `input` is the question
LONGBENCH = {"input", "context", "answers"}
# the lists of questions of QMSum, LoCoMo and LooGLE
QUERIES = ("general_query_list", "specific_query_list", "qa", "qa_pairs")
# their names for the fields of an entry
QUERY, ANSWER = ("query", "question", "Q"), ("answer", "A")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question and its answers."""

    # "" if only a summary is wanted
    question: str
    # each reference is right; likelihoods are those of the first
    references: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """Documents that are read once, and the questions on them."""

    documents: tuple[str, ...]
    asked: tuple[Asked, ...]

    @property
    def text(self) -> str:
        """All documents, an empty line between them."""
        return "\n\n".join(self.documents)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of a suite's records. The first name that is there counts."""

    # the option of the suite's file
    flag: str
    # names of the field that holds the answers
    answers: tuple[str, ...]
    # whether a record without a question is an error
    needs_question: bool
    # an example of a line, for errors
    example: str


QA = Schema(
    "qa",
    ("answers", "outputs", "answer"),
    True,
    '{"documents": [...] or "context": "...", "question": "...", "answer": "..."}',
)
SUMMARY = Schema(
    "summary",
    ("summaries", "outputs", "summary", "highlights", "abstract", "answers", "answer"),
    False,
    '{"document": "...", "summary": "..."}',
)


def load(schema: Schema, value: str | None, limit: int, seed: int) -> list[Item]:
    """Returns at most `limit` questions, on as many documents as possible.

    The first question of each document is taken before the second one of any.

    Args:
        schema: the schema of the records.
        value: a file or folder of JSON, which is read whole; or tfds:NAME, tfds:NAME@SPLIT, of
            which `limit` records are drawn.
        limit: the most questions.
        seed: the seed of the draw.

    Raises:
        UserError: there is no file, a line is not such a record, or there is nothing to ask.
    """
    if not value:
        raise UserError(
            f"{schema.flag}={value!r} must name a file of JSON lines, or tfds:NAME; "
            f"a line: {schema.example}"
        )
    rng = np.random.default_rng(seed)
    if value.startswith("tfds:"):
        records = tfds_records(
            f"{schema.flag}={value!r}",
            value,
            lambda count: sorted(rng.permutation(count)[:limit].tolist()),
        )
    else:
        name = f"{schema.flag}={value!r}"
        records = json_records(name, Path(value).expanduser(), "records", schema.example)
    # the same documents in several records are read once
    asked: dict[tuple[str, ...], dict[Asked, None]] = {}
    for where, record in records:
        item = parse(schema, record, where)
        asked.setdefault(item.documents, {}).update(dict.fromkeys(item.asked))
    items = [
        Item(documents, tuple(of))
        for documents, of in asked.items()
        if of and "".join(documents).strip()
    ]
    if not items:
        raise UserError(
            f"{schema.flag}={value!r} has no document with an answer to it"
            f"{', or no question' * schema.needs_question}; "
            f"give lines: {schema.example}"
        )
    return draw(items, limit, rng)


def draw(items: list[Item], limit: int, rng: np.random.Generator) -> list[Item]:
    """Draws at most `limit` questions, one of every document in turn.

    Documents come in random order, and the questions on one in their own order.
    """
    order = rng.permutation(len(items)).tolist()
    rounds = itertools.zip_longest(
        *([(index, asked) for asked in items[index].asked] for index in order)
    )
    kept = itertools.islice((pair for pairs in rounds for pair in pairs if pair), limit)
    chosen: dict[int, list[Asked]] = {}
    for index, asked in kept:
        chosen.setdefault(index, []).append(asked)
    return [dataclasses.replace(items[index], asked=tuple(of)) for index, of in chosen.items()]


def parse(schema: Schema, record: Any, where: str) -> Item:
    """Reads one record. Questions and answers without a word are left out.

    Raises:
        UserError: the record is not of this schema. The message begins with `where`.
    """
    if not isinstance(record, Mapping):
        raise UserError(
            f"{where}: a record must be an object, not {_kind(record)}; give {schema.example}"
        )
    if record.keys() >= LONGBENCH and not any(name in record for name in QUESTIONS):
        record = {**record, "documents": record["context"], "question": record["input"]}
    sessions = record.get("conversation")
    if isinstance(sessions, Mapping) and (found := sessions_of(sessions)):
        # a session of a conversation is a document that begins with its date
        documents = tuple("\n".join([date, *_texts(turns, where)]) for date, turns in found)
    else:
        documents = tuple(_texts(_field(record, DOCUMENTS, schema, where), where))
    if any(name in record for name in QUERIES):
        lists = [_listed(record.get(name)) for name in QUERIES]
        pairs = [_query(query, where) for one in lists for query in one]
    else:
        pairs = _pairs(schema, record, where)
    asked = []
    for question, answer in pairs:
        question = "\n".join(_texts(question, where)).strip()
        references = tuple(text.strip() for text in _texts(answer, where) if text.strip())
        if references and (question or not schema.needs_question):
            asked.append(Asked(question, references))
    return Item(documents, tuple(asked))


def _listed(value: Any) -> list:
    """The entries of a list of questions. LooGLE writes it as a Python literal, or "none"."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None if value.strip().lower() in ("", "none") else value
    return value if isinstance(value, list) else [value] if value else []


def _query(query: Any, where: str) -> tuple[Any, Any]:
    """A question and its answer. LoCoMo's unanswerable questions have none."""
    fields = query if isinstance(query, Mapping) else {}
    names = [next((name for name in of if name in fields), "") for of in (QUERY, ANSWER)]
    if names[0] and (names[1] or "adversarial_answer" in fields):
        return fields[names[0]], fields.get(names[1])
    raise UserError(
        f"{where}: each entry of {', '.join(QUERIES)} must have question and answer; add them"
    )


def _pairs(schema: Schema, record: Mapping, where: str) -> list[tuple[Any, Any]]:
    """The questions, each with its answers.

    A list of questions has a list of as many answers. For a single question all answers are right.
    """
    answers = _plain(_field(record, schema.answers, schema, where))
    has_question = any(name in record for name in QUESTIONS)
    questions = (
        _plain(_field(record, QUESTIONS, schema, where))
        if has_question or schema.needs_question
        else ""
    )
    if not isinstance(questions, list):
        return [(questions, answers)]
    if not isinstance(answers, list) or len(answers) != len(questions):
        count = len(answers) if isinstance(answers, list) else 1
        raise UserError(
            f"{where}: {len(questions)} questions have {count} answers; give as many of both"
        )
    return list(zip(questions, answers, strict=True))


def _field(record: Mapping, names: tuple[str, ...], schema: Schema, where: str) -> Any:
    for name in names:
        if name in record:
            return record[name]
    raise UserError(f"{where} has none of {', '.join(names)}; give {schema.example}")


def _texts(value: Any, where: str) -> list[str]:
    """The texts of a field, one or several, or none for null.

    An object stands for its speaker, title, content and text, as far as it has them.
    """
    value = _plain(value)
    if value is None:
        return []
    if isinstance(value, list):
        texts = [_texts(part, where) for part in value]
        if value and all(isinstance(part, Mapping) and "speaker" in part for part in value):
            # a transcript is one document
            return ["".join(f"{text}\n" for part in texts for text in part)]
        return [text for part in texts for text in part]
    if isinstance(value, Mapping):
        said = next((value[name] for name in ("content", "text") if name in value), None)
        if "speaker" in value and said is not None:
            return [f"{value['speaker']}: {said}"]
        named = [value[name] for name in ("title", "content", "text") if name in value]
        if len(named) == 1:
            # SQuAD's {"text": [...]} has several texts
            return _texts(named[0], where)
        if named:
            return ["\n".join(text for part in named for text in _texts(part, where))]
    if isinstance(value, bytes):
        return [value.decode(errors="replace")]
    if isinstance(value, str):
        # JSON can hold half a surrogate pair, which is no text
        return [value.encode(errors="replace").decode()]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [str(value)]
    raise UserError(
        f"{where}: documents, questions and answers must be text, not {_kind(value)}; "
        "write them as strings"
    )


def _plain(value: Any) -> Any:
    """The value, with lists in place of the arrays and tuples of TFDS."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _kind(value: Any) -> str:
    return f"{type(value).__name__} ({value!r:.40})"
