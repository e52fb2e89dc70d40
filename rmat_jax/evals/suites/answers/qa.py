"""Suite `qa`: questions on a long document, or on several that are read one after the other."""

import functools
from collections.abc import Sequence
from pathlib import Path

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals.suite import Options, Section, Subject
from rmat_jax.evals.suites.answers import overlap, suite
from rmat_jax.evals.suites.answers.ask import Answer
from rmat_jax.evals.suites.answers.compare import of_others
from rmat_jax.evals.suites.answers.questions import QA, Asked, Item

# An answer ends with its line, or after so many tokens.
ANSWER_TOKENS = 64
OTHER = "the answer to another document's question"


def prompt(asked: Asked) -> str:
    """Returns the text between the document and the answer."""
    return f"\n\nQuestion: {asked.question}\nAnswer:"


def room(tokenizer: Tokenizer, asked: Asked) -> int:
    """Returns the most tokens of an answer."""
    return ANSWER_TOKENS


def baselines(
    tokenizer: Tokenizer, items: Sequence[Item], answers: Sequence[Answer]
) -> dict[str, list[str]]:
    """Returns other texts to score, one for each question, which show what luck scores."""
    return {OTHER: of_others(answers)}


def method(items: Sequence[Item], answers: Sequence[Answer]) -> str:
    """Says how it was measured."""
    parts, lengths = [len(item.documents) for item in items], [answer.tokens for answer in answers]
    several = f", each of {min(parts)} to {max(parts)} texts read one after the other," * (
        max(parts) > 1
    )
    return (
        f"{len(answers)} questions on {len(items)} documents{several} of {min(lengths):,} to "
        f"{max(lengths):,} tokens. Bits are those of the first reference answer after "
        "`Question: ...`, `Answer:`. The model writes greedily, to the end of the line and at most "
        f"{ANSWER_TOKENS} tokens; words are compared as in SQuAD. Emptying the memory leaves the "
        "open chunk, and a sliding window, as they are."
    )


TASK = suite.Task(
    schema=QA,
    title="Question answering",
    written="Answers",
    references="Answers",
    prompt=prompt,
    room=room,
    stop=("\n",),
    scores={
        "exact match": functools.partial(overlap.best, overlap.exact_match),
        "token F1": functools.partial(overlap.best, overlap.token_f1),
    },
    baselines=baselines,
    method=method,
)


def check(subject: Subject, options: Options) -> None:
    """Raises UserError if anything is wrong with `options.qa`."""
    suite.load(TASK, options)


def qa(subject: Subject, options: Options, out: Path) -> Section:
    """Asks the questions of `options.qa`, as `suite.measure` does."""
    return suite.measure(TASK, subject, options, out)
