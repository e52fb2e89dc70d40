"""RULER's score of each sample of `ruler` under each condition."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmat_jax.evals.conditions import OF_QUESTIONS, Condition
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suites.answers.ask import Answer
from rmat_jax.evals.suites.ruler.stock import Sample

# the baseline of luck: a text that would be right elsewhere
OTHER = "another example's answer"
# the baseline of a reader who names things of the context at random
GUESS = "guessing among what is told"


def score(task: str, written: str, outputs: Sequence[str]) -> float:
    """Returns the share of the outputs that a text holds; for RULER's questions 1 if it holds any.

    Case does not matter. Source: RULER (arXiv 2404.06654), which gives these scores in per cent.
    """
    found = [output.lower() in written.lower() for output in outputs]
    return float(any(found)) if task.startswith("qa") else sum(found) / len(found)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A sample, its answers and their scores."""

    sample: Sample
    answer: Answer
    # scores by condition
    scores: dict[Condition, float]
    # the score of the answer to another sample of the task; NaN: there is none
    other: float
    # the score of a guess among what the context tells; NaN: not known
    guess: float


def scored(samples: Sequence[Sample], answers: Sequence[Answer]) -> list[Scored]:
    """Returns the scores, in the order of the samples.

    Args:
        samples: the samples that were asked.
        answers: the answers from `ask`, with the sample's index as the document.
    """
    of = {answer.document: answer for answer in answers}
    peers: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        peers.setdefault(sample.task, []).append(index)
    found = []
    for index, sample in enumerate(samples):
        same = peers[sample.task]
        # the next sample, or the first one after the last
        other = samples[same[(same.index(index) + 1) % len(same)]]
        found.append(
            Scored(
                sample,
                of[index],
                {
                    condition: score(sample.task, text, sample.outputs)
                    for condition, text in of[index].written.items()
                },
                np.nan if other is sample else score(sample.task, other.answer, sample.outputs),
                min(1.0, len(sample.outputs) / sample.candidates) if sample.candidates else np.nan,
            )
        )
    return found


def mean(of: Sequence[Scored], condition: Condition, against: Condition | None = None) -> Mean:
    """Returns the mean score under a condition, or its lead on another; examples are the units."""
    values = [one.scores[condition] - (one.scores[against] if against else 0) for one in of]
    return clustered_mean(np.array(values), np.arange(len(values)))


def lead(of: Sequence[Scored], condition: Condition) -> Mean:
    """Returns the mean lead of a condition on another sample's answer, where there is one."""
    known = [one.scores[condition] - one.other for one in of if not np.isnan(one.other)]
    return clustered_mean(np.array(known), np.arange(len(known)))


def luck(of: Sequence[Scored], name: str) -> float:
    """Returns the mean of `other` or `guess`; NaN if it is unknown for a sample."""
    return float(np.mean([getattr(one, name) for one in of])) if of else np.nan


def record(one: Scored) -> dict[str, Any]:
    """Returns everything on one sample for `report.json` except its context."""
    answer = one.answer
    return {
        "task": one.sample.task,
        "length": one.sample.length,
        "tokens": answer.tokens,
        "question": one.sample.question,
        "outputs": one.sample.outputs,
        "written": {OF_QUESTIONS[of]: text for of, text in answer.written.items()},
        "scores": {OF_QUESTIONS[of]: value for of, value in one.scores.items()},
        "bits": {OF_QUESTIONS[of]: value for of, value in answer.bits.items()},
        OTHER: one.other,
        GUESS: one.guess,
    }
