"""The figure of `ruler`: scores by task and length."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rmat_jax.evals import plots


def heat_map(
    file: Path,
    title: str,
    rows: Sequence[str],
    lengths: Sequence[int],
    kept_RN: np.ndarray,
    emptied_N: np.ndarray | None,
) -> None:
    """Draws scores by task and length, and a separate row of scores with an emptied memory.

    Args:
        file: the file to write.
        title: the title of the figure.
        rows: the names of the tasks.
        lengths: the lengths in tokens.
        kept_RN: scores from 0 to 1; NaN where a task has no prompt of that length.
        emptied_N: the scores of all tasks together with an emptied memory; None: no memory.
    """
    height = 1.6 + 0.3 * (len(rows) + 1)
    figure = Figure(figsize=(7, height), dpi=120, layout="constrained")
    panels = 1 if emptied_N is None else 2
    axes = np.ravel(figure.subplots(panels, sharex=True, height_ratios=[len(rows), 1][:panels]))
    axes[0].set_title(title, loc="left", fontweight="bold", fontsize=11)
    image = plots.shares(axes[0], kept_RN, "{:.2f}")
    axes[0].set_yticks(range(len(rows)), rows)
    if emptied_N is not None:
        plots.shares(axes[1], emptied_N[None], "{:.2f}")
        axes[1].set_yticks([0], ["all, memory\nemptied"])
    axes[-1].set_xticks(range(len(lengths)), map(plots.count_name, lengths))
    axes[-1].set_xlabel("length of prompt and answer (tokens)")
    figure.colorbar(image, ax=axes.tolist(), label="score").outline.set_visible(False)
    plots.save(figure, file)
