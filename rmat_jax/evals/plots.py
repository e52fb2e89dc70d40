"""The parts that several figures of the report share.

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

from rmat_jax.colours import BLUE, GREY, INK, ORANGE, VERMILLION
from rmat_jax.drawing import SMALL, dress, legend, save, set_title, sheet
from rmat_jax.evals.means import Mean

# Memory is blue in all figures.
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
    if quantity == "accuracy":
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter("{x:.0%}")
    elif values[0] > values[-1]:
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
    figure = sheet(7, height or (3.4 if panels == 1 else 4.8))
    axes = figure.subplots(panels, sharex=True, height_ratios=[3, 2][:panels])
    for panel, text in zip(np.ravel(axes), (title, ""), strict=False):
        dress(panel, text)
    return figure, axes


def bars_height(count: int) -> float:
    """Returns the height that so many horizontal bars need, in inches."""
    return min(1.3 + 0.42 * count, 9)


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


def heat_map(
    file: Path,
    title: str,
    rows: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    xlabel: str,
    *,
    ylabel: str = "",
    below: Mapping[str, Sequence[float]] | None = None,
    quantity: str = "accuracy",
    chance: float | None = None,
) -> None:
    """Draws shares from 0 to 1 with a number in each cell; a NaN has a dash.

    Args:
        file: the file to write.
        title: the title of the figure.
        rows: the shares of each row, by its name, from above.
        columns: the names of the columns.
        xlabel: the label of the columns.
        ylabel: the label of the rows.
        below: separate rows to compare with, by name.
        quantity: the name of the shares, for the colour bar.
        chance: the share that guessing gets, a line in the colour bar; None: no line.
    """
    below = below or {}
    figure = sheet(7, bars_height(len(rows) + len(below)))
    heights = [len(rows), *[1] * len(below)]
    panels = np.ravel(figure.subplots(len(heights), sharex=True, height_ratios=heights))
    for panel, part in zip(panels, (rows, *({name: below[name]} for name in below)), strict=True):
        image = _cells(panel, np.array(list(part.values())))
        panel.set_yticks(range(len(part)), part)
    set_title(panels[0], title)
    panels[0].set_ylabel(ylabel)
    panels[-1].set_xticks(range(len(columns)), columns)
    panels[-1].set_xlabel(xlabel)
    label = quantity if chance is None else f"{quantity} (line: guessing)"
    bar = figure.colorbar(image, ax=panels.tolist(), label=label, format="{x:.0%}", pad=0.02)
    bar.outline.set_visible(False)
    if chance is not None:
        bar.ax.axhline(chance, color=VERMILLION, linewidth=2)
    save(figure, file)


def _cells(axes: Axes, shares_RN: np.ndarray) -> AxesImage:
    image = axes.imshow(shares_RN, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares_RN):
        axes.text(
            column,
            row,
            "\N{EN DASH}" if np.isnan(share) else percent(share),
            ha="center",
            va="center",
            color="white" if share > 0.5 else INK,
            fontsize=SMALL,
        )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def percent(share: float) -> str:
    """Writes a share in whole per cent. Only none is 0 %, and only all is 100 %."""
    whole = round(share, 6) in (0, 1)
    return f"{share if whole else np.clip(share, 0.01, 0.99):.0%}"


def fusion(file: Path, branches: Sequence[str], weights_LS: np.ndarray) -> None:
    """Draws the learned weights of the branches as a stacked bar for each layer."""
    figure, axes = new_figure("Fusion weights by layer", height=bars_height(len(weights_LS)))
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
            fontsize=SMALL,
            color="white" if branch == "memory" else INK,
        )
        left += weights
    axes.set(xlabel="learned weight of the branch", xlim=(0, 1))
    axes.xaxis.set_major_formatter("{x:.0%}")
    layers_downward(axes, len(layers))
    save(figure, file)


def layers_downward(axes: Axes, count: int) -> None:
    """Gives each layer a row, layer 1 at the top, and adds the legend."""
    axes.set_ylabel("layer")
    axes.set_yticks(np.arange(1, count + 1))
    axes.set_ylim(count + 0.6, 0.4)
    axes.grid(False, axis="y")
    legend(axes)
