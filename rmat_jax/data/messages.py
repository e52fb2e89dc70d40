"""Dialogues and instructions as text in which only the answers are learned.

The template has two lines a message, and is plain text:

    <|user|>
    What is the capital of France?
    <|assistant|>
    Paris.

An answer is what an assistant says. The target after its last token is the tokenizer's `end`, so a
model that writes an answer stops there by itself. That `end` is a target only: the next token that
the model reads is the line break before the next message.

Segments are text without a template, in which some pieces are answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmat_jax.errors import UserError

ANSWERS = "assistant"
ROLES = ("system", "user", ANSWERS, "tool")
# fields of a prompt, the first of which a record must have, and the field of its answer
PAIRS = ((("prompt",), "completion"), (("instruction", "input"), "output"))


class Dialogue(bytes):
    """The text of a document, with the places of its answers: (start, stop) of each, in bytes."""

    answers: tuple[tuple[int, int], ...]

    def __new__(cls, text: bytes, answers: Sequence[tuple[int, int]]) -> "Dialogue":
        dialogue = super().__new__(cls, text)
        dialogue.answers = tuple(answers)
        return dialogue

    def runs(self) -> Iterator[tuple[bytes, bool]]:
        """The text cut where answers begin and end, and whether each piece is an answer."""
        at = 0
        for start, stop in self.answers:
            yield self[at:start], False
            yield self[start:stop], True
            at = stop
        yield self[at:], False


def render(messages: Sequence[tuple[str, bytes]]) -> Dialogue:
    """The text of some messages, (role, content) each."""
    text, answers = bytearray(), []
    for role, content in messages:
        text += b"<|%s|>\n" % role.encode()
        if role == ANSWERS:
            answers.append((len(text), len(text) + len(content)))
        text += content + b"\n"
    return Dialogue(bytes(text), answers)


def asking(line: str, *, goes_on: bool) -> str:
    """The text that a model reads before it answers a line.

    Args:
        line: what the user says.
        goes_on: whether an answer stands before the line. Its last line break is not read yet.
    """
    return "\n" * goes_on + f"<|user|>\n{line}\n<|{ANSWERS}|>\n"


def dialogue_of(where: str, row: Mapping[str, Any], field: str = "") -> Dialogue:
    """Makes a dialogue of a record: a list of messages {role, content}, a prompt and its answer, or
    a list of segments {text, label}, which are joined as they are; label is true for answers.

    Args:
        where: the record's name, for errors.
        row: the record.
        field: the field of the messages; "": "messages", "segments", or the fields of PAIRS.

    Raises:
        UserError: the record has no such field, an unknown role, no text, or no answer.
    """
    if not field and "segments" in row and "messages" not in row:
        return _joined(where, row["segments"])
    pair = next((p for p in PAIRS if p[0][0] in row and p[1] in row), None)
    if field or "messages" in row or pair is None:
        messages = _messages(where, row, field or "messages")
    else:
        prompts, answer = pair
        said = [_text(where, name, row[name]) for name in prompts if row.get(name)]
        messages = [("user", b"\n\n".join(said)), (ANSWERS, _text(where, answer, row[answer]))]
    said = [content for role, content in messages if role == ANSWERS]
    if not all(said) or not said:
        lacks = "has an empty answer" if said else "has no answer: no message is an assistant's"
        raise UserError(f"{where} {lacks}; leave it out, or complete it")
    return render(messages)


def is_dialogue(row: Mapping[str, Any]) -> bool:
    """Whether a record looks like one that `dialogue_of` takes."""
    lists = (row.get(name) for name in ("messages", "segments"))
    return any(isinstance(found, list) for found in lists) or any(
        prompts[0] in row and answer in row for prompts, answer in PAIRS
    )


def _joined(where: str, segments: Any) -> Dialogue:
    """The text of some segments. Raises UserError."""
    text, answers = bytearray(), []
    for number, segment in enumerate(segments if isinstance(segments, list) else [segments], 1):
        here = f"{where}, segment {number}"
        if not isinstance(segment, dict) or not isinstance(segment.get("label"), bool):
            raise UserError(
                f"{here} is no record with text and label, true or false; mend it or leave it out"
            )
        content = _text(here, "text", segment.get("text"))
        if segment["label"] and content:
            answers.append((len(text), len(text) + len(content)))
        text += content
    if not answers:
        raise UserError(
            f"{where} has no answer: no segment with text is labelled true; leave it out, or "
            "complete it"
        )
    return Dialogue(bytes(text), answers)


def _messages(where: str, row: Mapping[str, Any], field: str) -> list[tuple[str, bytes]]:
    if field not in row:
        pairs = ", ".join(f"{prompts[0]!r} and {answer!r}" for prompts, answer in PAIRS)
        raise UserError(
            f"{where} has no field {field!r} or 'segments', nor {pairs}; it has "
            f"{', '.join(map(str, row))}; set data.feature to the one that holds the messages"
        )
    if not isinstance(row[field], list) or not row[field]:
        what = "is empty" if row[field] == [] else f"holds {type(row[field]).__name__}"
        raise UserError(
            f"{where}: field {field!r} {what}; it must be a list of messages with role and content"
        )
    found = []
    for number, message in enumerate(row[field], 1):
        here = f"{where}, message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"{here} is no record with role and content; mend it or leave it out")
        if message["role"] not in ROLES:
            raise UserError(
                f"{here} has the role {message['role']!r:.60}; roles are {', '.join(ROLES)}"
            )
        found.append((message["role"], _text(here, "content", message["content"])))
    return found


def _text(where: str, field: str, text: Any) -> bytes:
    if not isinstance(text, str | bytes):
        raise UserError(
            f"{where}: field {field!r} holds {type(text).__name__}, not text; mend the record, or "
            "leave it out"
        )
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
