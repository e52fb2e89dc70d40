"""The trials of `babi`: which of a task's answers is the likeliest to one question at one stretch?

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

# how reports name the baseline that knows the answers' frequencies alone
MAJORITY = "always the most frequent answer"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of one question at one stretch."""

    # its number among the tasks
    task: int
    # its number in the task
    story: int
    # chunks of other text, or tokens of a published text
    stretch: int
    # Was the right answer the likeliest ...
    kept: bool
    # with the memory emptied before the question
    emptied: bool
    # after the question without any fact
    alone: bool
    # by how much likelier it is than after the question alone
    raised: bool
    # ... or the task's most frequent one?
    majority: bool
    # the right answer is what the model would write greedily
    exact: bool
    # bits that memory saves in picking the right answer among all
    saved: float


class Ranked(NamedTuple):
    """What a session makes of a task's answers."""

    # [candidates] cost of each, with the end of its line
    nats: np.ndarray
    # [candidates] bool, whether it would be written greedily
    greedy: np.ndarray

    @property
    def best(self) -> int:
        """The index of the likeliest answer."""
        return int(self.nats.argmin())

    def bits(self, answer: int) -> float:
        """Returns the bits that one answer costs if the model has to give one of them."""
        return float((np.logaddexp.reduce(-self.nats) + self.nats[answer]) / np.log(2))


def rank(engine: Engine, sessions: Sequence[Session], candidates: Sequence[str]) -> list[Ranked]:
    """Returns what each candidate would cost each session.

    An answer is taken whole, with the end of its line. That is one distribution over complete
    answers. A mean over their letters is none, and it prefers long words: their last letters say
    nothing new.
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
        index: of the task among all tasks.
        task: whose questions are asked.
        source: of the text before the questions.
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
        trials: any number; NaN comes of none.
        of: name of the field.
        against: name of the field that is subtracted.
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
