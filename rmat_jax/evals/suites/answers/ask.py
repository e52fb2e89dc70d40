"""Asks a model questions on documents: what the reference costs it, and what it writes."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from rmat_jax.evals.conditions import ALONE, EMPTIED, Condition, conditions
from rmat_jax.evals.continuations import ROWS, finite_costs, groups_of
from rmat_jax.evals.suite import Subject, say
from rmat_jax.evals.suites.answers.questions import Asked, Item
from rmat_jax.infer import Engine, Session
from rmat_jax.progress import Progress

# seconds between two lines of progress
PATIENCE = 10.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """The results of one question."""

    asked: Asked
    # the number of the document
    document: int
    # the length of the document
    tokens: int
    # the length of the reference whose bits are counted, with the space before it
    num_bytes: int
    # the bits that the reference costs
    bits: dict[Condition, float]
    written: dict[Condition, str]


def ask(
    subject: Subject,
    items: Sequence[Item],
    *,
    prompt: Callable[[Asked], str],
    room: Callable[[Asked], int],
    stop: Sequence[str] = (),
    name: str,
) -> list[Answer]:
    """Reads each document once, and asks from there under every condition.

    Args:
        subject: the model.
        items: documents and questions.
        prompt: the text between document and answer; a space follows it.
        room: the most tokens of the answer.
        stop: texts that end a written answer.
        name: the name of the suite, for progress.

    Raises:
        UserError: the model knows no text, or its probabilities are not finite.
    """
    engine = subject.engine(rows=ROWS)
    # Sessions may be large, depending on the model, so few are held at a time.
    ways = conditions(bool(subject.config.model.memory))
    total, answers = sum(len(item.asked) for item in items), []
    # sorted by length, so that documents of a group end together
    order = sorted(range(len(items)), key=lambda index: len(items[index].text))
    for documents in groups_of(ROWS, order):
        longest = len(items[documents[-1]].text)
        say(
            f"{name}: reading {len(documents)} of {len(items)} documents, "
            f"the longest of {longest:,} characters"
        )
        read = {index: engine.open(items[index].text) for index in documents}
        _read_all(engine, list(read.values()), name)
        wanted = [(index, asked) for index in documents for asked in items[index].asked]
        for group in groups_of(ROWS, wanted):
            references = [b" " + asked.references[0].encode() for _, asked in group]
            bits, written = [{} for _ in group], [{} for _ in group]
            for condition in ways:
                sessions = []
                for index, asked in group:
                    session = (
                        engine.open()
                        if condition == ALONE
                        else read[index].fork(forget=condition == EMPTIED)
                    )
                    session.read(prompt(asked))
                    sessions.append(session)
                found = finite_costs(engine, list(zip(sessions, references, strict=True)))
                writing = [
                    session.write(max_new_tokens=room(asked), temperature=0, stop=stop)
                    for session, (_, asked) in zip(sessions, group, strict=True)
                ]
                for place, cost in enumerate(found):
                    bits[place][condition] = cost.total / math.log(2)
                    written[place][condition] = "".join(writing[place]).strip()
            answers += [
                Answer(asked, index, read[index].tokens, len(reference), of_bits, of_text)
                for (index, asked), reference, of_bits, of_text in zip(
                    group, references, bits, written, strict=True
                )
            ]
            say(f"{name}: {len(answers)} of {total} questions")
    return answers


def _read_all(engine: Engine, sessions: Sequence[Session], name: str) -> None:
    """Reads the documents, side by side, with lines of progress."""
    progress = Progress(PATIENCE)
    while any(session.is_behind for session in sessions):
        engine.step()
        if progress.due():
            read = sum(session.tokens for session in sessions)
            say(f"{name}: {progress.speed(read)} of these documents")
