"""The style of the report's figures, and the parts that several of them share.

A figure has one idea. The figures of one suite alone are in that suite's folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

# not pyplot, which keeps every figure in a global
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from rmat_jax.colours import BLUE, GREY, GRID, INK, ORANGE
from rmat_jax.evals.means import Mean
from rmat_jax.files import replacing

# Memory is blue in all figures.
# letters of a line of a legend, as wide as a figure
LEGEND_LETTERS = 108
BRANCH_COLOURS = {"full": GREY, "local": ORANGE, "memory": BLUE}


def training(
    file: Path,
    train: Sequence[tuple[float, float]],
    heldout: Sequence[tuple[float, float]],
    quantity: str,
) -> None:
    """Draws a curve of training and points of held-out values.

    Args:
        file: the file to write.
        train: (step, value) of training batches.
        heldout: (step, value) of held-out text; may be empty.
        quantity: the name of the values, for the y axis.
    """
    figure, axes = new_figure("Training")
    axes.plot(*np.transpose(train), color=GREY, linewidth=1.2, label="training batches")
    if heldout:
        axes.plot(*np.transpose(heldout), "o-", color=BLUE, markersize=5, label="held out")
    values = np.array([value for _, value in train])
    if values[0] > values[-1]:
        # The first steps fall so far that they would flatten all the rest.
        late = [*values[len(values) // 20 :], *(value for _, value in heldout)]
        margin = 0.08 * (max(late) - min(late)) + 1e-3
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.set(xlabel="optimiser step", ylabel=quantity, xlim=(0, None))
    legend(axes)
    save(figure, file)


def new_figure(title: str, panels: int = 1, height: float | None = None) -> tuple[Figure, Axes]:
    """Returns a figure in the report's style and its panels, which stand above each other.

    Args:
        title: the title of the first panel.
        panels: one or two; with one, its axes are returned bare.
        height: the height in inches; None: one that suits the panels.
    """
    figure = Figure(
        figsize=(7, height or (3.2 if panels == 1 else 4.6)), dpi=120, layout="constrained"
    )
    axes = figure.subplots(panels, sharex=True, height_ratios=[3, 2][:panels])
    for panel in np.ravel(axes):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
    np.ravel(axes)[0].set_title(title, loc="left", fontweight="bold", fontsize=11)
    return figure, axes


def bars_height(count: int) -> float:
    """Returns the height that so many horizontal bars need, in inches."""
    return min(1.3 + 0.42 * count, 9)


def legend(axes: Axes) -> None:
    """Puts the legend of one panel above the figure, where no curve is, in the place of another."""
    figure = axes.figure
    for old in figure.legends:
        old.remove()
    handles, labels = axes.get_legend_handles_labels()
    widths = [len(label) + 6 for label in labels]
    fits = sum(widths) <= LEGEND_LETTERS
    columns = len(labels) if fits else max(LEGEND_LETTERS // max(widths), 1)
    figure.legend(
        handles,
        labels,
        loc="outside upper right",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def save(figure: Figure, file: Path) -> None:
    """Writes the figure in the format of the file's suffix."""
    with replacing(file) as scratch:
        figure.savefig(scratch)


def differences(
    axes: Axes, places: np.ndarray, means: Sequence[Mean], colour: str, markersize: float = 4
) -> None:
    """Draws points with their errors, and a line at zero to compare them with."""
    axes.axhline(0, color=INK, linewidth=0.8)
    with_errors(axes, places, means, "o", colour, markersize=markersize, elinewidth=1.2)


def with_errors(
    axes: Axes, places: np.ndarray, means: Sequence[Mean], style: str, colour: str, **look: Any
) -> None:
    """Draws means with bars of two standard errors; a mean without an error gets no bar.

    Args:
        axes: the axes to draw on.
        places: the places on the x axis.
        means: one mean for each place.
        style: Matplotlib's format string.
        colour: the colour of points, line and bars.
        **look: more arguments of `Axes.errorbar`.
    """
    values = np.array([mean.value for mean in means])
    errors = np.nan_to_num(np.array([mean.error for mean in means]))
    axes.errorbar(places, values, 2 * errors, fmt=style, color=colour, **look)


def token_axis(axes: Axes, places: np.ndarray) -> None:
    """Makes the x axis logarithmic, with ticks at every power of two, or at every second one.

    Args:
        axes: the axes, whose x axis counts tokens.
        places: the places of the data in tokens, ascending.
    """
    axes.set_xscale("log", base=2)
    powers = np.arange(np.floor(np.log2(places[0])), np.ceil(np.log2(places[-1])) + 1)
    powers = powers[:: 1 + len(powers) // 14]
    axes.set_xticks(2.0**powers, [count_name(2.0**power) for power in powers])
    axes.minorticks_off()


def count_name(count: float) -> str:
    """Writes a number of tokens shortly: 512, 4k, 1M. The units are powers of two."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def mark(upper: Axes, lower: Axes, marks: Mapping[str, float]) -> None:
    """Draws labelled vertical lines through both panels, where they lie inside the plot."""
    left, right = lower.get_xlim()
    inside = {label: place for label, place in marks.items() if left < place < right}
    bottom, top = lower.get_ylim()
    # a line of its own for each label, above the data
    lower.set_ylim(bottom, top + 0.3 * len(inside) * (top - bottom))
    for line, (label, place) in enumerate(inside.items()):
        for panel in {upper, lower}:
            panel.axvline(place, color=INK, linewidth=0.9, linestyle=":")
        at_right = lower.transLimits.transform(lower.transScale.transform((place, 1)))[0] > 0.7
        lower.annotate(
            label,
            (place, 0.98 - 0.17 * line),
            (-3 if at_right else 3, 0),
            xycoords=lower.get_xaxis_transform(),
            textcoords="offset points",
            ha="right" if at_right else "left",
            va="top",
            color=INK,
            fontsize=8,
        )


def shares(axes: Axes, shares_RN: np.ndarray, spell: str = "{:.0%}") -> AxesImage:
    """Draws shares from 0 to 1 as a heat map with a number in each cell; a NaN has a dash.

    Args:
        axes: the axes to draw on.
        shares_RN: rows from above, columns from the left.
        spell: a number's format.

    Returns:
        The image, which a colour bar needs.
    """
    image = axes.imshow(shares_RN, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares_RN):
        axes.text(
            column,
            row,
            "\N{EN DASH}" if np.isnan(share) else spell.format(share),
            ha="center",
            va="center",
            color="white" if share > 0.5 else INK,
            fontsize=9,
        )
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def stack_branches(axes: Axes, branches: Sequence[str], weights_LS: np.ndarray) -> None:
    """Draws a stacked bar for each layer: the weights of its branches."""
    layers, left = np.arange(1, len(weights_LS) + 1), np.zeros(len(weights_LS))
    for branch, weights in zip(branches, weights_LS.T, strict=True):
        bars = axes.barh(
            layers, weights, left=left, color=BRANCH_COLOURS[branch], height=0.72, label=branch
        )
        labels = [f"{weight:.0%}" if weight > 0.05 else "" for weight in weights]
        axes.bar_label(
            bars,
            labels,
            label_type="center",
            fontsize=9,
            color="white" if branch == "memory" else INK,
        )
        left += weights
