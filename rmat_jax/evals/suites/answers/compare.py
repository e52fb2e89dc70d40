"""Compares answers under all conditions: bits and scores, and what the memory gains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rmat_jax.evals.conditions import (
    ALONE,
    EMPTIED,
    KEPT,
    OF_QUESTIONS,
    Condition,
    contest,
    verdict,
)
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suite import table
from rmat_jax.evals.suites.answers.ask import Answer

# the score of a written text against all references
Score = Callable[[str, Sequence[str]], float]

BITS = "bits per byte"


def bits_per_byte(answers: Sequence[Answer], condition: Condition) -> float:
    """Returns what a byte of the references costs under a condition."""
    return sum(answer.bits[condition] for answer in answers) / sum(
        answer.num_bytes for answer in answers
    )


def saved(answers: Sequence[Answer], condition: Condition) -> Mean:
    """Returns the bits per byte that the document in memory saves against another condition.

    Questions on one document are a unit.
    """
    sizes = np.array([answer.num_bytes for answer in answers])
    bits = np.array([answer.bits[condition] - answer.bits[KEPT] for answer in answers])
    return clustered_mean(np.repeat(bits / sizes, sizes), np.repeat(documents(answers), sizes))


def documents(answers: Sequence[Answer]) -> np.ndarray:
    """Returns the number of each answer's document."""
    return np.array([answer.document for answer in answers])


def of_others(answers: Sequence[Answer]) -> list[str]:
    """Returns for each question the reference of the next question on another document.

    These texts show what luck scores. They are "" where there is no other document.
    """
    found = []
    for place, answer in enumerate(answers):
        others = (*answers[place + 1 :], *answers[:place])
        found.append(
            next((a.asked.references[0] for a in others if a.document != answer.document), "")
        )
    return found


def compare(
    answers: Sequence[Answer], scores: Mapping[str, Score], baselines: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, Any]]:
    """Returns tables and verdicts as markdown, and the numbers.

    Args:
        answers: one or more answers from `ask`.
        scores: the scores of written texts, by name; the last one is judged.
        baselines: other texts by name, one for each question.
    """
    kept, ways = OF_QUESTIONS[KEPT], {OF_QUESTIONS[of]: of for of in answers[0].bits}
    texts = {name: [answer.written[of] for answer in answers] for name, of in ways.items()}
    texts |= {name: list(of) for name, of in baselines.items()}
    scored = {
        (name, score): np.array(
            [of(text, a.asked.references) for text, a in zip(written, answers, strict=True)]
        )
        for name, written in texts.items()
        for score, of in scores.items()
    }
    means = {name: {BITS: bits_per_byte(answers, of)} for name, of in ways.items()}
    gains = {name: {BITS: saved(answers, of)} for name, of in ways.items() if of != KEPT}
    for of in (means, gains):
        of.update({name: {} for name in baselines})
    for (name, score), values in scored.items():
        means[name][score] = float(values.mean())
        if name != kept:
            gains[name][score] = clustered_mean(scored[kept, score] - values, documents(answers))

    columns = (BITS, *scores)
    lines = [
        (name, *(f"{of[c]:.3f}" if c in of else "" for c in columns)) for name, of in means.items()
    ]
    margins = [
        (f"against {name}", *(f"{of[c]:+.4f}" if c in of else "" for c in columns))
        for name, of in gains.items()
    ]
    parts = [
        _verdicts(gains, baselines, judged=next(reversed(scores))),
        table(("", *columns), lines),
        f"What the {kept} gains (bits: saved), with the standard error over documents:",
        table(("", *columns), margins),
    ]
    return "\n\n".join(parts), {
        "questions": len(answers),
        "documents": len(np.unique(documents(answers))),
        "means": means,
        "gains": gains,
        "answers": [
            {
                "question": answer.asked.question,
                "references": answer.asked.references,
                "document": answer.document,
                "document_tokens": answer.tokens,
                "written": {name: of[place] for name, of in texts.items()},
                "bits": {name: answer.bits[of] for name, of in ways.items()},
                "scores": {
                    name: {score: float(scored[name, score][place]) for score in scores}
                    for name in texts
                },
            }
            for place, answer in enumerate(answers)
        ],
    }


def _verdicts(
    gains: Mapping[str, Mapping[str, Mean]], baselines: Iterable[str], judged: str
) -> str:
    unit, over, emptied = f"{BITS} of the reference saved", "documents", OF_QUESTIONS[EMPTIED]
    lines = [
        verdict(gains[emptied][BITS], "Its memory", unit, over)
        if emptied in gains
        else "This model has no memory.",
        verdict(gains[OF_QUESTIONS[ALONE]][BITS], "Reading the document", unit, over),
        *(
            contest(gains[name][judged], "Its text", name, f"of {judged}", over)
            for name in baselines
        ),
    ]
    return "\n".join(f"- {line}" for line in lines)
