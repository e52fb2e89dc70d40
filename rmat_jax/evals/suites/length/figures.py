"""The figure of `length`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rmat_jax.drawing import count_name, legend, mark, save, token_axis
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import EMPTIED, KEPT
from rmat_jax.evals.means import Mean


def reach(
    file: Path,
    reaches: Sequence[int],
    per_byte: np.ndarray,
    gains: Sequence[Mean],
    marks: Mapping[str, float],
    emptied: float | None,
) -> None:
    """Draws bits per byte by reach, and below what a reach saves.

    Args:
        file: the file to write.
        reaches: the reaches in tokens, ascending; the first is 0, the chunk alone.
        per_byte: bits per byte at each reach.
        gains: what each reach saves, in bits per token.
        marks: labelled vertical lines.
        emptied: bits per byte at the longest reach with the memory emptied; None: no memory.
    """
    figure, (upper, lower) = plots.new_figure("Loss by how far the state reaches back", panels=2)
    # a log axis has no place for 0
    places = np.array([reaches[1] / 2, *reaches[1:]])
    upper.plot(
        places,
        per_byte,
        KEPT.style,
        color=KEPT.colour,
        markersize=4,
        linewidth=1.4,
        label="all that the reach holds",
    )
    if emptied is not None:
        upper.axhline(
            emptied,
            color=EMPTIED.colour,
            linestyle=EMPTIED.line,
            linewidth=1.4,
            label="memory emptied, window and last token kept",
        )
    legend(upper)
    upper.set_ylabel("bits per byte")
    plots.differences(lower, places, gains, KEPT.colour)
    lower.set_ylabel("context saves\nbits per token")
    token_axis(lower, places)
    ticks = lower.get_xticks()
    names = ["the chunk\nalone", *(count_name(tick) for tick in ticks[1:])]
    lower.set_xticks(ticks, names)
    mark([upper, lower], marks)
    lower.set_xlabel("reach (tokens before the chunk)")
    save(figure, file)
