"""How every figure looks: its sheet, its panels, its legend, its marks, its axis of tokens.

Nothing is drawn over the data. A legend stands between a panel and its title, the labels of marks
in a strip of their own. The background is opaque, so that a dark page shows the same figure.

May import: colours, files, matplotlib, numpy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

# not pyplot, which keeps every figure in a global
from matplotlib.figure import Figure

from rmat_jax.colours import GRID, INK
from rmat_jax.files import replacing

# a font size in points; smaller text cannot be read on a narrow page
SMALL = 9
# the share of a panel that the label of one mark takes of its height
STRIP = 0.1
# the growth of a panel when the layout gives it the room that nothing needs
GROWS = 1.1


def sheet(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches, with a margin on all sides."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def dress(panel: Axes, title: str = "") -> None:
    """Gives a panel its look, and a title if there is one."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    # an offset would stand where the legend does
    panel.ticklabel_format(useOffset=False)
    set_title(panel, title)


def set_title(panel: Axes, title: str, above: float = 6) -> None:
    """Writes the title of a panel, so many points above it."""
    panel.set_title(title, loc="left", fontweight="bold", fontsize=11, pad=above)


def legend(panel: Axes) -> None:
    """Puts the legend between a panel and its title."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
    height = _in_rows(panel, panel, GROWS * panel.bbox.width, **place)
    set_title(panel, panel.get_title(loc="left"), height * 72 / panel.figure.dpi + 4)


def shared_legend(panel: Axes) -> None:
    """Puts the legend of a panel below all panels of the figure."""
    _in_rows(panel.figure, panel, 0.95 * panel.figure.bbox.width, loc="outside lower center")


def _in_rows(owner: Figure | Axes, panel: Axes, room: float, **place: Any) -> float:
    """Adds the legend in as few rows as the room allows, and returns its height, in pixels."""
    handles, labels = panel.get_legend_handles_labels()
    for columns in range(len(labels), 0, -1):
        box = owner.legend(
            handles,
            labels,
            ncols=columns,
            frameon=False,
            fontsize=SMALL,
            labelcolor=INK,
            borderpad=0.3,
            columnspacing=1.4,
            **place,
        )
        extent = box.get_window_extent()
        if extent.width < room:
            break
        if columns > 1:
            box.remove()
    return extent.height


def mark(panels: list[Axes], marks: Mapping[str, float]) -> None:
    """Draws labelled vertical lines through all panels, where they lie inside the plot.

    The labels stand at the top of the last panel, each in a row of its own, above all that is drawn
    there. A label is on the side of its line that has more room.
    """
    panel = panels[-1]
    left, right = panel.get_xlim()
    inside = {label: place for label, place in marks.items() if left < place < right}
    low, high = panel.get_ylim()
    panel.set_ylim(low, low + (high - low) / (1 - STRIP * len(inside)))
    for row, (label, place) in enumerate(inside.items()):
        for each in panels:
            each.axvline(place, color=INK, linewidth=0.9, linestyle=":")
        across = panel.transLimits.transform(panel.transScale.transform((place, high)))[0]
        panel.annotate(
            label,
            (place, 1 - STRIP * (row + 0.5)),
            xycoords=panel.get_xaxis_transform(),
            xytext=(4 if across < 0.5 else -4, 0),
            textcoords="offset points",
            ha="left" if across < 0.5 else "right",
            va="center",
            color=INK,
            fontsize=SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def token_axis(panel: Axes, places: np.ndarray) -> None:
    """Makes the x axis logarithmic, with ticks at powers of two: all of them, or each second one.

    Args:
        panel: the panel whose x axis counts tokens.
        places: the places in tokens, ascending.
    """
    panel.set_xscale("log", base=2)
    powers = np.arange(np.floor(np.log2(places[0])), np.ceil(np.log2(places[-1])) + 1)
    powers = powers[:: 1 + len(powers) // 14]
    panel.set_xticks(2.0**powers, [count_name(2.0**power) for power in powers])
    panel.minorticks_off()


def count_name(count: float) -> str:
    """Writes a number of tokens shortly, in powers of two: 512, 4k, 1.5k, 1M; 4,080 in full."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= size and float(f"{count / size:.3g}") * size == count:
            return f"{count / size:.3g}{unit}"
    return f"{count:,.0f}"


def save(figure: Figure, file: Path) -> None:
    """Writes the figure; the file's ending says as what."""
    with replacing(file) as scratch:
        figure.savefig(scratch)
