"""The figures of `recall`: accuracy by context and depth, by number of pairs, and by both."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# not pyplot, which keeps every figure in a global
from matplotlib.figure import Figure

from rmat_jax.colours import INK, VERMILLION
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import EMPTIED, KEPT, OF_QUESTIONS, OF_TEXTS
from rmat_jax.evals.means import Mean

# the name of the row with an emptied memory
EMPTIED_ROW = "memory\nemptied"


def heatmap(
    file: Path,
    title: str,
    contexts: Sequence[int],
    rows: Sequence[str],
    ylabel: str,
    accuracy_RN: np.ndarray,
    below: Mapping[str, np.ndarray],
    chance: float,
) -> None:
    """Draws accuracy by context length and by something else.

    Args:
        file: the file to write.
        title: the title of the figure.
        contexts: context lengths in tokens, one for each column.
        rows: the names of the rows, from above.
        ylabel: the label of the rows.
        accuracy_RN: accuracies from 0 to 1.
        below: separate rows to compare with, by name.
        chance: the accuracy of guessing, marked in the colour bar.
    """
    figure = Figure(figsize=(7, 4.4), dpi=120, layout="constrained")
    heights = [len(rows), *[1] * len(below)]
    axes = np.ravel(figure.subplots(len(heights), sharex=True, height_ratios=heights))
    axes[0].set_title(title, loc="left", fontweight="bold", fontsize=11)
    image = plots.shares(axes[0], accuracy_RN)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylabel(ylabel)
    for panel, (name, shares_N) in zip(axes[1:], below.items(), strict=True):
        plots.shares(panel, shares_N[None])
        panel.set_yticks([0], [name])
    axes[-1].set_xticks(range(len(contexts)), [plots.count_name(tokens) for tokens in contexts])
    axes[-1].set_xlabel("context (tokens)")
    bar = figure.colorbar(image, ax=axes.tolist(), label="accuracy", format="{x:.0%}")
    bar.outline.set_visible(False)
    bar.ax.axhline(chance, color=VERMILLION, linewidth=2)
    bar.ax.text(
        -0.2,
        chance,
        "guessing ",
        color=VERMILLION,
        fontsize=8,
        ha="right",
        va="center",
        transform=bar.ax.get_yaxis_transform(),
    )
    plots.save(figure, file)


def keys(
    file: Path,
    counts: Sequence[int],
    kept: Sequence[Mean],
    cut: Sequence[Mean] | None,
    chance: float,
) -> None:
    """Draws accuracy by how many pairs were told.

    Args:
        file: the file to write.
        counts: the numbers of pairs.
        kept: the accuracy at each number.
        cut: the same with an emptied memory; None: the model has no memory.
        chance: the accuracy of guessing.
    """
    figure, axes = plots.new_figure("Accuracy by number of pairs")
    for means, condition, label in (
        (kept, KEPT, OF_TEXTS[KEPT]),
        (cut, EMPTIED, OF_QUESTIONS[EMPTIED]),
    ):
        if means is not None:
            plots.with_errors(
                axes,
                counts,
                means,
                condition.style,
                condition.colour,
                markersize=4,
                linewidth=1.4,
                label=label,
            )
    axes.axhline(chance, color=INK, linestyle=":", linewidth=1.2, label="guessing")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="pairs told", ylabel="accuracy", ylim=(0, 1.03))
    axes.yaxis.set_major_formatter("{x:.0%}")
    plots.legend(axes)
    plots.save(figure, file)
