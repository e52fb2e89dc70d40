"""The faults of a figure as it is drawn: text on text, and text or a legend on the data."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

# pixels that boxes may share, since the box of a text is larger than its letters
SLACK = 2


def faults(figure: Figure) -> list[str]:
    """Returns a line for each fault of a figure that has been drawn."""
    texts = list(_texts(figure))
    boxes = np.array([text.get_window_extent().extents for text in texts])
    names = [text.get_text() for text in texts]
    found = [
        f"{names[one]!r} is on {names[other]!r}"
        for one, other in zip(*np.nonzero(_meet(boxes, boxes)), strict=True)
        if one < other
    ]
    page = figure.bbox.extents
    out = (boxes[:, :2] < page[:2] - SLACK).any(1) | (boxes[:, 2:] > page[2:] + SLACK).any(1)
    found += [f"{names[one]!r} is cut off" for one in np.flatnonzero(out)]
    legends = [*figure.legends, *filter(None, (panel.get_legend() for panel in figure.axes))]
    for legend in legends:
        box = np.array([legend.get_window_extent().extents])
        panels = np.array([panel.bbox.extents for panel in figure.axes])
        found += [f"a legend is on panel {panel}" for panel in np.nonzero(_meet(box, panels))[1]]
    for panel in figure.axes:
        found += [f"{name!r} is on the data" for name in _labels_on_data(panel)]
    return found


def _texts(figure: Figure) -> Iterator[Text]:
    """Yields the texts that are seen. Ticks beyond the ends of an axis are not."""
    unseen = set()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-6 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                seen = panel.axison and low - margin <= tick.get_loc() <= high + margin
                if not seen:
                    unseen |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in unseen:
            yield text


def _meet(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Whether boxes, [n, 4] and [m, 4], share more than SLACK pixels each way, [n, m]."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    return (high - low > SLACK).all(-1)


def _labels_on_data(panel: Axes) -> Iterator[str]:
    """Yields the labels within a panel that a curve, a point or an error bar meets."""
    paths = [
        path.transformed(panel.transData)
        for drawn in (*panel.lines, *panel.collections)
        if drawn.get_transform() == panel.transData
        for path in (drawn.get_paths() if drawn in panel.collections else [drawn.get_path()])
    ]
    for text in panel.texts:
        box = text.get_window_extent().padded(-SLACK)
        if any(path.intersects_bbox(box, filled=False) for path in paths):
            yield text.get_text()
