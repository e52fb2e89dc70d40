"""The figure of accuracy by number of pairs, and what the heat maps of `recall` share."""

from collections.abc import Sequence
from pathlib import Path

from rmat_jax.colours import INK
from rmat_jax.drawing import legend, save
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import EMPTIED, KEPT, OF_QUESTIONS, OF_TEXTS
from rmat_jax.evals.means import Mean

# the name of the row with an emptied memory
EMPTIED_ROW = "memory\nemptied"


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
    legend(axes)
    save(figure, file)
