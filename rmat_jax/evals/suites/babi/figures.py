"""The figures of `babi`: right answers by task and stretch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmat_jax.colours import INK
from rmat_jax.drawing import legend, save
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_STORIES, Condition
from rmat_jax.evals.suites.babi.sources import Scale
from rmat_jax.evals.suites.babi.stories import Task
from rmat_jax.evals.suites.babi.trials import MAJORITY, Trial, by_stretch, chance, mean


def heat_map(file: Path, tasks: Sequence[Task], trials: Sequence[Trial], scale: Scale) -> None:
    """Draws the right answers of each task at each stretch as a heat map, as BABILong does."""
    cells = by_stretch(trials)
    plots.heat_map(
        file,
        f"Right answers, {OF_STORIES[KEPT]}",
        {
            task.name: [mean([t for t in found if t.task == i]).value for found in cells.values()]
            for i, task in enumerate(tasks)
        },
        [scale.label(stretch) for stretch in cells],
        scale.axis,
        quantity="right answers",
    )


def curves(
    file: Path, tasks: Sequence[Task], trials: Sequence[Trial], scale: Scale, has_memory: bool
) -> None:
    """Draws the right answers by stretch, all tasks together, and baselines without memory."""
    cells = by_stretch(trials)
    places = np.arange(len(cells))
    drawing, axes = plots.new_figure("Right answers by stretch, all tasks")

    def line(field: str, condition: Condition, beside: float) -> None:
        found = [mean(trials, field) for trials in cells.values()]
        plots.with_errors(
            axes,
            places + beside,
            found,
            condition.style,
            condition.colour,
            markersize=4.5,
            linewidth=1.4,
            label=OF_STORIES[condition],
        )

    # The points are a little apart, so that no bar hides another.
    line("kept", KEPT, -0.03)
    if has_memory:
        line("emptied", EMPTIED, 0.03)
    chances = float(np.mean([chance(tasks[trial.task]) for trial in trials]))
    for height, colour, style, width, label in (
        (mean(trials, "alone").value, ALONE.colour, ALONE.line, 1.8, OF_STORIES[ALONE]),
        (mean(trials, "majority").value, INK, "-.", 1.0, MAJORITY),
        (chances, INK, ":", 1.2, "chance"),
    ):
        axes.axhline(height, color=colour, linestyle=style, linewidth=width, label=label)
    axes.set_xticks(places, map(scale.label, cells))
    axes.set(xlabel=scale.axis, ylabel="right answers", ylim=(0, 1.03))
    axes.yaxis.set_major_formatter("{x:.0%}")
    legend(axes)
    save(drawing, file)
