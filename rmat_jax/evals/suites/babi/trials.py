"""The trials of `babi`: which of a task's answers is the most likely, for a question at a stretch?

The model reads facts, a line each, other text between them, and the question. The answer stands on
the question's line.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rmat_jax.evals.continuations import ROWS, finite_costs, groups_of
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suite import say
from rmat_jax.evals.suites.babi.sources import Source
from rmat_jax.evals.suites.babi.stories import Question, Task
from rmat_jax.infer import Engine, Session

# the name of the baseline that knows only the answers' frequencies, in reports
MAJORITY = "always the most frequent answer"


@dataclasses.dataclass(frozen=True)
class Trial:
    """The results of one question at one stretch."""

    # the number of the task among all tasks
    task: int
    # the number of the story in the task
    story: int
    # chunks of other text, or tokens of a published text
    stretch: int
    # whether the right answer was the most likely one
    kept: bool
    # the same with the memory emptied before the question
    emptied: bool
    # the same after the question without any fact
    alone: bool
    # whether the right answer gained most against the question alone
    raised: bool
    # whether the right answer is the task's most frequent one
    majority: bool
    # whether the model would write the right answer greedily
    exact: bool
    # the bits that memory saves in picking the right answer among all
    saved: float


class Ranked(NamedTuple):
    """The costs of a task's answers to one session."""

    # [candidates] the cost of each, with the end of its line
    nats: np.ndarray
    # [candidates] bool, whether it would be written greedily
    greedy: np.ndarray

    @property
    def best(self) -> int:
        """The index of the most likely answer."""
        return int(self.nats.argmin())

    def bits(self, answer: int) -> float:
        """Returns the bits that one answer costs if the model has to give one of them."""
        return float((np.logaddexp.reduce(-self.nats) + self.nats[answer]) / np.log(2))


def rank(engine: Engine, sessions: Sequence[Session], candidates: Sequence[str]) -> list[Ranked]:
    """Returns what each candidate would cost each session.

    An answer is taken whole, with the end of its line. That is one distribution over complete
    answers. A mean over their letters is no distribution, and it prefers long words, whose last
    letters say nothing new.
    """
    texts = [f" {candidate}\n" for candidate in candidates]
    costs = finite_costs(engine, [(session, text) for session in sessions for text in texts])
    return [
        Ranked(np.array([cost.total for cost in of]), np.array([cost.correct.all() for cost in of]))
        for of in groups_of(len(texts), costs)
    ]


def run_task(engine: Engine, index: int, task: Task, source: Source) -> list[Trial]:
    """Asks questions of a task at every stretch.

    Args:
        engine: the model.
        index: the index of the task among all tasks.
        task: the task whose questions are asked.
        source: the source of the text before the questions.
    """
    candidates, trials = task.candidates, []
    alone: dict[int, Ranked] = {}

    def ranked(sessions: Sequence[Session], questions: Sequence[Question]) -> list[Ranked]:
        for session, question in zip(sessions, questions, strict=True):
            session.read(question.text)
        return rank(engine, sessions, candidates)

    for stretch in source.stretches(task):
        drawn = source.drawn(task, stretch)
        for group in groups_of(ROWS, drawn):
            questions = [task.questions[number] for number in group]
            new = [number for number in group if number not in alone]
            asked = [task.questions[number] for number in new]
            alone |= zip(new, ranked([engine.open() for _ in new], asked), strict=True)
            read = [engine.open(source.context(task, number, stretch)) for number in group]
            forgetful = [session.fork(forget=True) for session in read]
            kept = ranked(read, questions)
            emptied = ranked(forgetful, questions) if engine.model.config.memory else kept
            for number, question, ours, theirs in zip(group, questions, kept, emptied, strict=True):
                right = candidates.index(question.answer)
                trial = Trial(
                    task=index,
                    story=question.story,
                    stretch=stretch,
                    kept=ours.best == right,
                    emptied=theirs.best == right,
                    alone=alone[number].best == right,
                    raised=int((ours.nats - alone[number].nats).argmin()) == right,
                    majority=question.answer == task.majority,
                    exact=bool(ours.greedy[right]),
                    saved=theirs.bits(right) - ours.bits(right),
                )
                trials.append(trial)
        right = mean(trials[-len(drawn) :]).value
        say(f"babi: {task.name}, {source.scale.extent(stretch)}: {right:.2f} right")
    return trials


def mean(trials: Sequence[Trial], of: str = "kept", against: str | None = None) -> Mean:
    """Returns the mean of one field of the trials, or of its difference to another field.

    The questions of a story, at all stretches, are a unit.

    Args:
        trials: any number of trials; without any the mean is NaN.
        of: the name of the field.
        against: the name of the field that is subtracted.
    """
    if not trials:
        return clustered_mean(np.zeros(0), np.zeros(0))
    values = np.array(
        [getattr(t, of) - (getattr(t, against) if against else 0) for t in trials], float
    )
    _, units = np.unique([(t.task, t.story) for t in trials], axis=0, return_inverse=True)
    return clustered_mean(values, units.ravel())


def by_stretch(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    """Returns the trials of each stretch, the shortest first."""
    return {
        chunks: [t for t in trials if t.stretch == chunks]
        for chunks in sorted({t.stretch for t in trials})
    }


def chance(task: Task) -> float:
    """Returns the accuracy of guessing among the task's answers."""
    return 1 / len(task.candidates)
