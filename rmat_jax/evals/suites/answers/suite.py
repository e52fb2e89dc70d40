"""The section of `qa` and of `summary`: the costs of references and the scores of written texts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_QUESTIONS
from rmat_jax.evals.suite import Options, Section, Subject, figure
from rmat_jax.evals.suites.answers import figures, questions
from rmat_jax.evals.suites.answers.ask import Answer, ask
from rmat_jax.evals.suites.answers.compare import BITS, Score, compare
from rmat_jax.evals.suites.answers.questions import Asked, Item, Schema


@dataclasses.dataclass(frozen=True)
class Task:
    """The prompts and scores of one suite."""

    # its flag is the name of the suite and of the option with its file
    schema: Schema
    # the title of the section
    title: str
    # names of the written texts in the figure and of the references in the headline, both of which
    # begin a sentence
    written: str
    references: str
    # the text between document and answer
    prompt: Callable[[Asked], str]
    # the most tokens of the answer
    room: Callable[[Tokenizer, Asked], int]
    # texts that end a written answer
    stop: tuple[str, ...]
    # scores by name; the last one is judged
    scores: Mapping[str, Score]
    # other texts by name, one for each question; the headline has the score of the first
    baselines: Callable[[Tokenizer, Sequence[Item], Sequence[Answer]], dict[str, list[str]]]
    # says how the suite measures
    method: Callable[[Sequence[Item], Sequence[Answer]], str]

    @property
    def name(self) -> str:
        """The name of the suite."""
        return self.schema.flag


def load(task: Task, options: Options) -> list[Item]:
    """Returns the documents and questions to ask.

    Raises:
        UserError: something is wrong with the task's file.
    """
    file = getattr(options, task.name)
    return questions.load(task.schema, file, options.examples, options.seed)


def measure(task: Task, subject: Subject, options: Options, out: Path) -> Section:
    """Asks every question under all conditions. Returns the section; its figure is in `out`.

    Raises:
        UserError: the options are bad, or the model knows no text.
    """
    items, tokenizer = load(task, options), subject.tokenizer
    answers = ask(
        subject,
        items,
        prompt=task.prompt,
        room=functools.partial(task.room, tokenizer),
        stop=task.stop,
        name=task.name,
    )
    title, file = f"{task.written} by length of the document", f"{task.name}_length.png"
    figures.by_length(Path(out, file), title, answers, subject.config.model.chunk_len)
    baselines = task.baselines(tokenizer, items, answers)
    compared, values = compare(answers, task.scores, baselines)
    text = "\n\n".join([compared, figure(title, file), task.method(items, answers)])
    headline = _headline(task, next(iter(baselines)), values["means"])
    return Section(task.title, headline, text, values)


def _headline(task: Task, rival: str, means: Mapping[str, Mapping[str, Any]]) -> str:
    kept, alone, judged = OF_QUESTIONS[KEPT], OF_QUESTIONS[ALONE], next(reversed(task.scores))
    costs = [
        f"{means[name][BITS]:.3f} with {name}"
        for name in (kept, OF_QUESTIONS[EMPTIED])
        if name in means
    ]
    return (
        f"{task.references} cost {', '.join(costs)}, {means[alone][BITS]:.3f} for the {alone} "
        f"({BITS}); {judged} {means[kept][judged]:.3f}, {means[rival][judged]:.3f} for {rival}."
    )
