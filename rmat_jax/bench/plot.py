"""The figures of `bench stream` and `bench train`."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from rmat_jax.bench import train
from rmat_jax.bench.stream import Report, by_peer
from rmat_jax.colours import BLUE, GREEN, GREY, INK, LIGHT_BLUE, ORANGE, PURPLE, VERMILLION
from rmat_jax.drawing import count_name, dress, save, shared_legend, sheet

# Colour, marker, width. Caches of equal size lie on each other, so later lines are narrower.
STYLES = (
    (BLUE, "o", 1.8),
    (GREY, "s", 5.4),
    (GREEN, "^", 3.2),
    (PURPLE, "v", 1.4),
)

# colour, marker; models of `bench train`, ours first
LINES = (
    (BLUE, "o"),
    (LIGHT_BLUE, "o"),
    (GREY, "s"),
    (ORANGE, "^"),
    (GREEN, "v"),
    (PURPLE, "D"),
    (INK, "P"),
    (VERMILLION, "X"),
)


def plot(report: Report, file: Path) -> None:
    """Draws time and state against context, with a line for each model."""
    figure = sheet(8.4, 3.9)
    time, state = figure.subplots(1, 2)
    for (name, rows), (colour, marker, width) in zip(
        by_peer(report.rows).items(), STYLES, strict=False
    ):
        contexts = [row.context for row in rows]
        low, median, high = np.transpose([row.ms for row in rows])
        style = {"color": colour, "marker": marker, "markersize": 4 + width, "label": name}
        time.fill_between(contexts, low, high, color=colour, alpha=0.2, linewidth=0)
        time.plot(contexts, median, linewidth=1.6, **style | {"markersize": 5})
        state.plot(contexts, [row.state_bytes for row in rows], linewidth=width, **style)
    for axes, title in ((time, "Time of one token"), (state, "State of one stream")):
        _finish(axes, contexts, title)
        axes.set_xlabel("tokens read before")
        axes.set_yscale("log", base=2)
    time.set_ylabel("milliseconds")
    time.yaxis.set_major_formatter("{x:g}")
    state.yaxis.set_major_formatter(FuncFormatter(_bytes))
    bottom, top = state.get_ylim()
    state.set_ylim(min(bottom, 2**20), top)
    shared_legend(time)
    save(figure, file)


def plot_train(report: train.Report, file: Path) -> None:
    """Draws tokens a second against the tokens of a lane, with a panel for each number of lanes and
    a line for each model.
    """
    counts = sorted({row.lanes for row in report.rows})
    figure = sheet(max(7, 4.2 * len(counts)), 4.2)
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(row.model for row in report.rows))
    for lanes, axes in zip(counts, panels, strict=True):
        for name, (colour, marker) in zip(names, LINES, strict=False):
            rows = sorted(
                (row for row in report.rows if (row.model, row.lanes) == (name, lanes)),
                key=lambda row: row.tokens,
            )
            lengths = [row.tokens for row in rows]
            low, median, high = np.transpose([row.rate for row in rows])
            axes.fill_between(lengths, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(lengths, median, color=colour, marker=marker, linewidth=1.6, label=name)
        lengths = sorted({row.tokens for row in report.rows})
        _finish(axes, lengths, f"Training, {lanes} lane{'s' if lanes > 1 else ''}")
        axes.set_xlabel("tokens of a lane in a step")
    # the panels share this axis
    panels[0].set_yscale("log")
    panels[0].set_ylabel("tokens a second")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:,.0f}")
    panels[0].yaxis.set_minor_locator(NullLocator())
    shared_legend(panels[0])
    save(figure, file)


def _finish(axes: Axes, lengths: list[int], title: str) -> None:
    dress(axes, title)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, map(count_name, lengths))
    axes.minorticks_off()


def _bytes(value: float, _) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
