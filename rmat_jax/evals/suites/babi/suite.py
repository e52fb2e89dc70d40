"""The section of `babi`: right answers by task and by stretch, and the verdicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.evals.conditions import ALONE, EMPTIED, OF_STORIES, contest, verdict
from rmat_jax.evals.continuations import ROWS
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.suites.babi import figures
from rmat_jax.evals.suites.babi.stories import Distractor, Task, read_tasks
from rmat_jax.evals.suites.babi.trials import MAJORITY, Trial, by_stretch, chance, mean, run_task

# tokens of a document of other text, at most
TEXT_TOKENS = 1 << 16


def check(subject: Subject, options: Options) -> None:
    """Raises UserError for anything wrong with `options.babi` or the text between the facts."""
    read_tasks(options.babi)
    distractor(subject, options)


def distractor(subject: Subject, options: Options) -> Distractor:
    """Returns the text to put between the facts.

    Raises:
        UserError: there is none.
    """
    texts = read_texts(subject, options, TEXT_TOKENS)
    return Distractor(map(subject.tokenizer.decode, texts), subject.tokenizer)


def babi(subject: Subject, options: Options, out: Path) -> Section:
    """Measures accuracy for each task and stretch. Returns the section; its figures are in `out`.

    Beside it stand chance, the most frequent answer, an emptied memory, and no facts.

    Raises:
        UserError: bad options, no text to put between the facts, or a model that knows no text.
    """
    tasks, other = read_tasks(options.babi), distractor(subject, options)
    model, engine = subject.config.model, subject.engine(rows=ROWS)
    trials = [
        trial
        for index, task in enumerate(tasks)
        for trial in run_task(engine, index, task, options, other)
    ]
    figures.heat_map(Path(out, "babi_tasks.png"), tasks, trials)
    figures.curves(Path(out, "babi_stretches.png"), tasks, trials, model.memory)
    values = measured(tasks, trials, bool(model.memory))

    brackets = ", in brackets with the memory emptied" * bool(model.memory)
    parts = [
        verdicts(trials, bool(model.memory)),
        figure("Accuracy by task and stretch", "babi_tasks.png"),
        figure("Accuracy by stretch, all tasks", "babi_stretches.png"),
        f"Right answers by chunks of other text{brackets}:",
        task_table(values),
        method(max(t.stretch for t in trials) * model.chunk_len, source_name(options), other),
    ]
    return Section(
        "bAbI over many chunks",
        headline(values, max(t.stretch for t in trials)),
        "\n\n".join(parts),
        values,
    )


def headline(values: dict[str, Any], longest: int) -> str:
    """Returns one sentence with the scores of all tasks together."""
    means, emptied = values["all"], ""
    if "emptied" in means:
        emptied = f", {means['emptied']['value']:.3f} with the {OF_STORIES[EMPTIED]}"
    return (
        f"{means['kept']['value']:.3f} of bAbI's answers are right with 0 to {longest} chunks of "
        f"other text between the facts{emptied}; chance is {means['chance']:.3f}, "
        f"{MAJORITY} {means['majority']['value']:.3f}."
    )


def method(longest: int, source: str, other: Distractor) -> str:
    """Says how it was measured.

    Args:
        longest: tokens of other text at the longest stretch.
        source: name of the other text.
        other: the text itself.
    """
    repeats = ", which is shorter and repeats" * (other.num_tokens < longest)
    return (
        f"Each question is asked after 0 to {longest:,} tokens of {source}{repeats}, with the "
        "facts at random places in it, in their order. An answer counts as given if it is, with "
        "the end of its line, likelier than every other answer in the task's file: one "
        "distribution over whole answers, not normalised by their lengths. Raised most: of all "
        "answers it gained most against the question alone, which takes out what the model likes "
        "to say anyway. Exact: it is also what the model would write greedily. Emptying the memory "
        "leaves the open chunk, and a sliding window, as they are; the question is read after it."
    )


def verdicts(trials: Sequence[Trial], has_memory: bool) -> str:
    """Says what the numbers of all tasks together show, a line each."""
    unit, over = "of accuracy", "stories"
    raised = "The answer that the facts raise most"
    lines = [
        contest(mean(trials, "kept", "majority"), "Its answer", MAJORITY, unit, over),
        contest(
            mean(trials, "kept", "alone"), "Its answer", "that to the question alone", unit, over
        ),
        contest(mean(trials, "raised", "majority"), raised, MAJORITY, unit, over),
        reach(trials),
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


def reach(trials: Sequence[Trial]) -> str:
    """Says up to which stretch every stretch beats the most frequent answer.

    A difference counts from two standard errors on.
    """
    found = None
    for chunks, of in by_stretch(trials).items():
        if not mean(of, "kept", "majority").positive:
            break
        found = chunks
    if found is None:
        return (
            f"Not even without other text between the facts is it right more often than {MAJORITY}."
        )
    return (
        f"It is right more often than {MAJORITY}, by more than two standard errors, "
        f"up to {found} chunks of other text."
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
            "questions": len(own) // len(cells),
            "stretches": {chunks: means(of) for chunks, of in cells.items()},
        }
    return values


def task_table(values: dict[str, Any]) -> str:
    """Returns a markdown table with a line for each task."""

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
            *map(cell, of["stretches"].values()),
            f"{of['raised']['value']:.2f}",
            f"{of['exact']['value']:.2f}",
        )
        for name, of in values["tasks"].items()
    ]
    columns = [f"{chunks}" for chunks in next(iter(values["tasks"].values()))["stretches"]]
    return table(
        (
            "task",
            "questions",
            "chance",
            "most frequent",
            OF_STORIES[ALONE],
            *columns,
            "raised most",
            "exact",
        ),
        lines,
    )
