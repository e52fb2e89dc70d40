"""The section of `babi`: right answers by task and by stretch, and the verdicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.evals.conditions import ALONE, EMPTIED, OF_STORIES, contest, verdict
from rmat_jax.evals.continuations import ROWS
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.passages import Distractor
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.suites.babi import figures
from rmat_jax.evals.suites.babi.babilong import read_babilong
from rmat_jax.evals.suites.babi.sources import Published, Scale, Source, Spread
from rmat_jax.evals.suites.babi.stories import Task, read_tasks
from rmat_jax.evals.suites.babi.trials import MAJORITY, Trial, by_stretch, chance, mean, run_task

# the most tokens of a document of other text
TEXT_TOKENS = 1 << 16
METHOD = (
    "An answer counts as given if it is, with the end of its line, more likely than every other "
    "answer in the task's files. That is one distribution over whole answers, not normalised by "
    "their lengths. Raised most: of all answers it gained most against the question alone, which "
    "corrects for the model's preferences. Exact: the model would also write it greedily. Emptying "
    "the memory leaves the open chunk, and a sliding window, as they are; the question is read "
    "after it."
)


def check(subject: Subject, options: Options) -> None:
    """Raises UserError if something is wrong with `options.babi` or the text between the facts."""
    read(subject, options)


def read(subject: Subject, options: Options) -> tuple[list[Task], Source]:
    """Returns the tasks of `options.babi`, and the source of the text before their questions.

    A folder of BABILong's files has both; bAbI's files need other text.

    Raises:
        UserError: there are files of neither, they are damaged, or there is no other text.
    """
    folder = options.babi
    if folder and Path(folder).expanduser().is_dir():
        tasks = read_babilong(folder, options.max_tokens)
        if tasks:
            return tasks, Published(f"`{folder}`", subject.tokenizer, options)
    tasks = read_tasks(folder)
    texts = read_texts(subject, options, TEXT_TOKENS)
    other = Distractor(map(subject.tokenizer.decode, texts), subject.tokenizer)
    chunk_len = subject.config.model.chunk_len
    return tasks, Spread(other, source_name(options), subject.tokenizer, chunk_len, options)


def babi(subject: Subject, options: Options, out: Path) -> Section:
    """Measures accuracy for each task and stretch. Returns the section; its figures are in `out`.

    The section compares with chance, the most frequent answer, an emptied memory, and no facts.

    Raises:
        UserError: the options are bad, there is no text to put between the facts, or the model
            knows no text.
    """
    tasks, source = read(subject, options)
    model, engine = subject.config.model, subject.engine(rows=ROWS)
    trials = [
        trial for index, task in enumerate(tasks) for trial in run_task(engine, index, task, source)
    ]
    scale = source.scale
    figures.heat_map(Path(out, "babi_tasks.png"), tasks, trials, scale)
    figures.curves(Path(out, "babi_stretches.png"), tasks, trials, scale, bool(model.memory))
    values = measured(tasks, trials, bool(model.memory))

    stretches = by_stretch(trials)
    brackets = ", in brackets with the memory emptied" * bool(model.memory)
    parts = [
        verdicts(trials, scale, bool(model.memory)),
        figure("Accuracy by task and stretch", "babi_tasks.png"),
        figure("Accuracy by stretch, all tasks", "babi_stretches.png"),
        f"Right answers by {scale.axis}{brackets}:",
        task_table(values, scale),
        f"{source.method()} {METHOD}",
    ]
    return Section(
        "bAbI over many chunks",
        headline(values, scale.span(min(stretches), max(stretches))),
        "\n\n".join(parts),
        values,
    )


def headline(values: dict[str, Any], span: str) -> str:
    """Returns one sentence with the scores of all tasks together."""
    means, emptied = values["all"], ""
    if "emptied" in means:
        emptied = f", {means['emptied']['value']:.3f} with the {OF_STORIES[EMPTIED]}"
    return (
        f"{means['kept']['value']:.3f} of bAbI's answers are right {span}{emptied}; chance is "
        f"{means['chance']:.3f}, {MAJORITY} {means['majority']['value']:.3f}."
    )


def verdicts(trials: Sequence[Trial], scale: Scale, has_memory: bool) -> str:
    """Says what the numbers of all tasks together show, a line each."""
    unit, over = "of accuracy", "stories"
    raised = "The answer that the facts raise most"
    lines = [
        contest(mean(trials, "kept", "majority"), "Its answer", MAJORITY, unit, over),
        contest(
            mean(trials, "kept", "alone"), "Its answer", "that to the question alone", unit, over
        ),
        contest(mean(trials, "raised", "majority"), raised, MAJORITY, unit, over),
        reach(trials, scale),
    ]
    if has_memory:
        lines.append(verdict(mean(trials, "kept", "emptied"), "Its memory", unit, over))
        lines.append(
            verdict(
                mean(trials, "saved"), "Its memory", "bits saved in picking the right answer", over
            )
        )
    else:
        lines.append("This model has no memory.")
    return "\n".join(f"- {line}" for line in lines)


def reach(trials: Sequence[Trial], scale: Scale) -> str:
    """Says up to which stretch every stretch beats the most frequent answer.

    A difference counts from two standard errors on.
    """
    found = None
    for stretch, of in by_stretch(trials).items():
        if not mean(of, "kept", "majority").positive:
            break
        found = stretch
    if found is None:
        return f"Not even {scale.least} is it right more often than {MAJORITY}."
    return (
        f"It is right more often than {MAJORITY}, by more than two standard errors, "
        f"up to {scale.extent(found)}."
    )


def measured(tasks: Sequence[Task], trials: Sequence[Trial], has_memory: bool) -> dict[str, Any]:
    """Returns every number: of all tasks together, and of each task at each stretch."""
    kinds = ("kept", *["emptied", "saved"] * has_memory, "alone", "raised", "majority", "exact")

    def means(of: Sequence[Trial]) -> dict[str, Any]:
        return {kind: mean(of, kind)._asdict() for kind in kinds}

    values = {
        "all": means(trials) | {"chance": float(np.mean([chance(tasks[t.task]) for t in trials]))},
        "tasks": {},
    }
    for index, task in enumerate(tasks):
        own = [t for t in trials if t.task == index]
        cells = by_stretch(own)
        values["tasks"][task.name] = means(own) | {
            "chance": chance(task),
            "questions": max(map(len, cells.values())),
            "stretches": {stretch: means(of) for stretch, of in cells.items()},
        }
    return values


def task_table(values: dict[str, Any], scale: Scale) -> str:
    """Returns a markdown table with a line for each task."""
    stretches = sorted({at for of in values["tasks"].values() for at in of["stretches"]})

    def cell(means: dict[str, Any]) -> str:
        return f"{means['kept']['value']:.2f}" + (
            f" ({means['emptied']['value']:.2f})" if "emptied" in means else ""
        )

    lines = [
        (
            name,
            of["questions"],
            *(
                f"{number:.2f}"
                for number in (of["chance"], of["majority"]["value"], of["alone"]["value"])
            ),
            *(cell(of["stretches"][at]) if at in of["stretches"] else "" for at in stretches),
            f"{of['raised']['value']:.2f}",
            f"{of['exact']['value']:.2f}",
        )
        for name, of in values["tasks"].items()
    ]
    return table(
        (
            "task",
            "questions",
            "chance",
            "most frequent",
            OF_STORIES[ALONE],
            *map(scale.label, stretches),
            "raised most",
            "exact",
        ),
        lines,
    )
