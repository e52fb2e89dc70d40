"""bAbI's questions with their facts spread over many chunks of other text: how far does the memory
carry them?

Read is what a person would read: a fact a line, other text between them, the question, and on its
line the answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from rmat_jax.evals import plots
from rmat_jax.evals.answers import ALONE, EMPTIED, ROWS
from rmat_jax.evals.compared import contest, verdict
from rmat_jax.evals.inputs.stories import Distractor, Task, read_tasks
from rmat_jax.evals.inputs.texts import read_texts, source_name
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.trials import Trial, mean, run_task

KEPT, MAJORITY = "facts in memory", "always the most frequent answer"
# of a document, at most
TEXT_TOKENS = 1 << 16
XLABEL = "other text between the facts (chunks)"


def check(subject: Subject, options: Options) -> None:
    """Raises UserError for anything that is wrong with `options.babi`, or with the text between the
    facts.
    """
    read_tasks(options.babi)
    distractor(subject, options)


def distractor(subject: Subject, options: Options) -> Distractor:
    """The text that is given, else the run's held-out documents."""
    texts = read_texts(subject, options, TEXT_TOKENS)
    return Distractor(map(subject.tokenizer.decode, texts), subject.tokenizer)


def babi(subject: Subject, options: Options, out: Path) -> Section:
    """Accuracy for each task and stretch, beside chance, the most frequent answer, no memory, and
    no facts.

    Raises:
        UserError: bad options, no text to put between the facts, or a model that knows no text.
    """
    tasks, other, model = (
        read_tasks(options.babi),
        distractor(subject, options),
        subject.config.model,
    )
    engine = subject.engine(rows=ROWS)
    trials = [
        trial
        for index, task in enumerate(tasks)
        for trial in run_task(engine, index, task, options, other)
    ]
    plot_tasks(Path(out, "babi_tasks.png"), tasks, trials)
    plot_stretches(Path(out, "babi_stretches.png"), tasks, trials, model.has_memory)
    values = measured(tasks, trials, model.has_memory)

    brackets = ", in brackets with the memory emptied" * model.has_memory
    parts = [
        verdicts(trials, model.has_memory),
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
    means = values["all"]
    emptied = f", {means['emptied']['value']:.3f} with the {EMPTIED}" if "emptied" in means else ""
    return (
        f"{means['kept']['value']:.3f} of bAbI's answers are right with 0 to {longest} chunks of other text between the "
        f"facts{emptied}; chance is {means['chance']:.3f}, {MAJORITY} {means['majority']['value']:.3f}."
    )


def method(longest: int, source: str, other: Distractor) -> str:
    repeats = ", which is shorter and repeats" * (other.num_tokens < longest)
    return (
        f"Each question is asked after 0 to {longest:,} tokens of {source}{repeats}, with the facts at random places in it, in "
        "their order. An answer counts as given if it is, with the end of its line, likelier than every other answer in the "
        "task's file: one distribution over whole answers, not normalised by their lengths. Raised most: of all answers it "
        "gained most against the question alone, which takes out what the model likes to say anyway. Exact: it is also what "
        "the model would write greedily. Emptying the memory leaves the open chunk, and a sliding window, as they are; the "
        "question is read after it."
    )


def verdicts(trials: Sequence[Trial], has_memory: bool) -> str:
    """What the numbers of all tasks together allow to say."""
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
    """As far as every stretch beats the most frequent answer by more than two standard errors."""
    found = None
    for chunks, of in by_stretch(trials).items():
        gain = mean(of, "kept", "majority")
        if not gain.value > 2 * gain.error:
            break
        found = chunks
    if found is None:
        return (
            f"Not even without other text between the facts is it right more often than {MAJORITY}."
        )
    return f"It is right more often than {MAJORITY}, by more than two standard errors, up to {found} chunks of other text."


def by_stretch(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    return {
        chunks: [t for t in trials if t.stretch == chunks]
        for chunks in sorted({t.stretch for t in trials})
    }


def measured(tasks: Sequence[Task], trials: Sequence[Trial], has_memory: bool) -> dict[str, Any]:
    """Every number: of all tasks together, and of each at each stretch."""
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


def chance(task: Task) -> float:
    return 1 / len(task.candidates)


def task_table(values: dict[str, Any]) -> str:
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
        ("task", "questions", "chance", "most frequent", ALONE, *columns, "raised most", "exact"),
        lines,
    )


def plot_tasks(file: Path, tasks: Sequence[Task], trials: Sequence[Trial]) -> None:
    """A heat map, as BABILong shows it."""
    chunks = list(by_stretch(trials))
    cells = [
        [mean([t for t in of if t.task == i]).value for of in by_stretch(trials).values()]
        for i in range(len(tasks))
    ]
    drawing, axes = plots.new_figure(
        "Right answers, facts in memory", height=plots.bars_height(len(tasks))
    )
    shades = LinearSegmentedColormap.from_list("blues", ["#FFFFFF", plots.LIGHT_BLUE, plots.BLUE])
    image = axes.imshow(cells, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            colour = "white" if value > 0.7 else plots.INK
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour
            )
    axes.set_xticks(range(len(chunks)), chunks)
    axes.set_yticks(range(len(tasks)), [task.name for task in tasks])
    axes.set_xlabel(XLABEL)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    drawing.colorbar(image, ax=axes, pad=0.02).outline.set_visible(False)
    plots.save(drawing, file)


def plot_stretches(
    file: Path, tasks: Sequence[Task], trials: Sequence[Trial], has_memory: bool
) -> None:
    """All tasks together, with two standard errors, beside what needs no memory."""
    cells = by_stretch(trials)
    places = np.arange(len(cells))
    drawing, axes = plots.new_figure("Right answers by stretch, all tasks")

    def line(of: str, style: str, colour: str, label: str, beside: float) -> None:
        found = [mean(trials, of) for trials in cells.values()]
        values, errors = [m.value for m in found], [2 * np.nan_to_num(m.error) for m in found]
        axes.errorbar(
            places + beside,
            values,
            errors,
            fmt=style,
            color=colour,
            markersize=4.5,
            linewidth=1.4,
            label=label,
        )

    line("kept", "o-", plots.BLUE, KEPT, -0.03)
    if has_memory:
        line("emptied", "s--", plots.VERMILLION, EMPTIED, 0.03)
    flat = mean(trials, "alone").value, mean(trials, "majority").value
    axes.axhline(flat[0], color=plots.ORANGE, linestyle="-.", linewidth=1.2, label=ALONE)
    axes.axhline(flat[1], color=plots.INK, linestyle="--", linewidth=1.0, label=MAJORITY)
    chances = float(np.mean([chance(tasks[trial.task]) for trial in trials]))
    axes.axhline(chances, color=plots.GREY, linestyle=":", linewidth=1.2, label="chance")
    axes.set_xticks(places, cells)
    axes.set(xlabel=XLABEL, ylabel="right answers", ylim=(0, 1))
    plots.legend(axes)
    plots.save(drawing, file)
