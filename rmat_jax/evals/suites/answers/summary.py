"""Suite `summary`: summaries of long documents, compared with the beginning of the document."""

import functools
from collections.abc import Sequence
from pathlib import Path

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals.suite import Options, Section, Subject
from rmat_jax.evals.suites.answers import overlap, suite
from rmat_jax.evals.suites.answers.ask import Answer
from rmat_jax.evals.suites.answers.compare import of_others
from rmat_jax.evals.suites.answers.questions import SUMMARY, Asked, Item

# the most tokens of a summary, however long the reference is
SUMMARY_TOKENS = 1024
LEAD, OTHER = "the document's beginning", "the summary of another document"


def prompt(asked: Asked) -> str:
    """Returns the text between the document and the summary."""
    return "\n\n" + f"{asked.question}\n" * bool(asked.question) + "Summary:"


def room(tokenizer: Tokenizer, asked: Asked) -> int:
    """Returns the most tokens of a summary: as many as the reference has."""
    return min(len(tokenizer.encode(asked.references[0].encode())), SUMMARY_TOKENS)


def lead(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """Returns the first so many tokens of a document."""
    return tokenizer.decode(tokenizer.encode(text.encode())[:tokens]).decode(errors="replace")


def baselines(
    tokenizer: Tokenizer, items: Sequence[Item], answers: Sequence[Answer]
) -> dict[str, list[str]]:
    """Returns other texts to score, one for each question: the beginning, and one to show luck."""
    leads = [lead(tokenizer, items[a.document].text, room(tokenizer, a.asked)) for a in answers]
    return {LEAD: leads, OTHER: of_others(answers)}


def method(items: Sequence[Item], answers: Sequence[Answer]) -> str:
    """Says how it was measured."""
    lengths = [answer.tokens for answer in answers]
    return (
        f"{len(answers)} summaries of {len(items)} documents of {min(lengths):,} to "
        f"{max(lengths):,} tokens, asked for by the document's question, if there is one, and "
        "`Summary:`. Bits are those of the first reference. The model writes greedily, as many "
        f"tokens as the reference has and at most {SUMMARY_TOKENS:,}; {LEAD} is as long. ROUGE is "
        "the F measure, words not stemmed. Emptying the memory leaves the open chunk, and a "
        "sliding window, as they are."
    )


TASK = suite.Task(
    schema=SUMMARY,
    title="Summaries",
    written="Summaries",
    references="Reference summaries",
    prompt=prompt,
    room=room,
    stop=(),
    scores={
        "ROUGE-1": functools.partial(overlap.best, functools.partial(overlap.rouge_n, n=1)),
        "ROUGE-2": functools.partial(overlap.best, functools.partial(overlap.rouge_n, n=2)),
        "ROUGE-L": functools.partial(overlap.best, overlap.rouge_l),
    },
    baselines=baselines,
    method=method,
)


def check(subject: Subject, options: Options) -> None:
    """Raises UserError if anything is wrong with `options.summary`."""
    suite.load(TASK, options)


def summary(subject: Subject, options: Options, out: Path) -> Section:
    """Asks for the summaries of `options.summary`, as `suite.measure` does."""
    return suite.measure(TASK, subject, options, out)
