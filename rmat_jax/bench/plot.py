"""The figure of `bench stream`."""

from pathlib import Path

import numpy as np

# not pyplot, which keeps every figure in a global
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rmat_jax.bench.stream import Report, by_peer
from rmat_jax.colours import BLUE, GREY, GRID, INK, ORANGE, VERMILLION
from rmat_jax.files import replacing

# Colour, marker, width: caches of equal size lie on each other, the later line narrower.
STYLES = (
    (BLUE, "o", 1.8),
    (GREY, "s", 5.4),
    (VERMILLION, "^", 3.2),
    (ORANGE, "v", 1.4),
)


def plot(report: Report, file: Path) -> None:
    """Time and state against context, a line for each model, labelled at its end."""
    figure = Figure(figsize=(10, 3.9), dpi=120, layout="constrained")
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
    time.set(title="Time of one token", ylabel="milliseconds")
    time.set_yscale("log", base=2)
    time.yaxis.set_major_formatter("{x:g}")
    state.set(title="State of one stream")
    state.set_yscale("log", base=2)
    state.yaxis.set_major_formatter(FuncFormatter(_bytes))
    for axes in (time, state):
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, [f"{c / 1024:g}k" if c >= 1024 else str(c) for c in contexts])
        axes.minorticks_off()
        axes.set_xlabel("tokens read before")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set(ha="left", x=0, fontweight="bold", fontsize=11)
    bottom, top = state.get_ylim()
    state.set_ylim(min(bottom, 2**20), top)
    time.legend(frameon=False, fontsize=9, labelcolor=INK)
    with replacing(file) as scratch:
        figure.savefig(scratch)


def _bytes(value: float, _) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
