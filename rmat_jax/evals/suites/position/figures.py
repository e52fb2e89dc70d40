"""The figures of `position`: loss by place, recovery, gates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from rmat_jax.colours import BLUE, INK, LIGHT_BLUE, PURPLE
from rmat_jax.drawing import legend, mark, save, token_axis
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import EMPTIED, KEPT, OF_READINGS
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suites.position.gauges import Openness


def loss_by_place(
    file: Path,
    title: str,
    xlabel: str,
    places: np.ndarray,
    kept: np.ndarray,
    cut: np.ndarray | None,
    gains: Sequence[Mean],
    *,
    marks: Mapping[str, float],
    log: bool,
) -> None:
    """Draws the loss with and without memory by place, and below what memory saves.

    Args:
        file: the file to write.
        title: the title of the figure.
        xlabel: the label of the places.
        places: [n] the places.
        kept: [n] bits per token with memory.
        cut: [n] bits per token with the memory emptied; None: the model has no memory, and the
            figure no second panel.
        gains: what memory saves at each place, in bits per token; not read without `cut`.
        marks: labelled vertical lines.
        log: whether the places are tokens on a logarithmic axis.
    """
    figure, axes = plots.new_figure(title, panels=1 if cut is None else 2)
    upper = axes if cut is None else axes[0]
    if cut is not None:
        _always_emptied(upper, places, cut)
    upper.plot(
        places,
        kept,
        KEPT.style,
        color=KEPT.colour,
        markersize=4,
        linewidth=1.4,
        label="held out" if cut is None else OF_READINGS[KEPT],
    )
    upper.set_ylabel("bits per token")
    legend(upper)
    lower = upper
    if cut is not None:
        lower = axes[1]
        plots.differences(lower, places, gains, KEPT.colour)
        lower.set_ylabel("memory saves\nbits per token")
    if log:
        token_axis(lower, places)
    mark([upper] if cut is None else [upper, lower], marks)
    lower.set_xlabel(xlabel)
    save(figure, file)


def recovery(
    file: Path,
    places: np.ndarray,
    kept: np.ndarray,
    once: np.ndarray,
    cut: np.ndarray,
    costs: Sequence[Mean],
) -> None:
    """Draws the loss after the memory was emptied once, between that of the two other readings.

    Args:
        file: the file to write.
        places: [n] tokens since the emptying.
        kept: [n] bits per token, with the memory never emptied.
        once: [n] the same with the memory emptied once.
        cut: [n] the same with the memory emptied before each chunk.
        costs: what emptying it once costs at each place, in bits per token.
    """
    figure, (upper, lower) = plots.new_figure("After the memory was emptied once", panels=2)
    _always_emptied(upper, places, cut)
    for values, style, colour, label in (
        (once, "D-", PURPLE, "emptied once, at 0"),
        (kept, KEPT.style, KEPT.colour, "never emptied"),
    ):
        upper.plot(places, values, style, color=colour, markersize=4, linewidth=1.4, label=label)
    upper.set_ylabel("bits per token")
    legend(upper)
    plots.differences(lower, places, costs, PURPLE)
    lower.set_ylabel("emptying it once\ncosts bits per token")
    token_axis(lower, places)
    lower.set_xlabel("tokens since it was emptied")
    save(figure, file)


def _always_emptied(axes: Axes, places: np.ndarray, cut: np.ndarray) -> None:
    axes.plot(
        places,
        cut,
        EMPTIED.style,
        color=EMPTIED.colour,
        markersize=3.5,
        linewidth=1.4,
        label=OF_READINGS[EMPTIED],
    )


def gates(file: Path, openness: Openness, start: float) -> None:
    """Draws the update gate of each layer: its mean and the middle 80 % of its values.

    Args:
        file: the file to write.
        openness: the openness of the layers.
        start: the openness at the start of training.
    """
    layers = np.arange(1, len(openness.mean_L) + 1)
    figure, axes = plots.new_figure("Update gate by layer", height=plots.bars_height(len(layers)))
    spread_L = openness.high_L - openness.low_L
    axes.barh(
        layers, spread_L, left=openness.low_L, height=0.4, color=LIGHT_BLUE, label="middle 80 %"
    )
    axes.plot(openness.mean_L, layers, "o", color=BLUE, markersize=8, clip_on=False, label="mean")
    axes.axvline(start, color=INK, linestyle=":", linewidth=1.2, label="start of training")
    axes.set(xlabel="openness z (0: keep the slot, 1: replace it)", xlim=(0, 1))
    plots.layers_downward(axes, len(layers))
    save(figure, file)
