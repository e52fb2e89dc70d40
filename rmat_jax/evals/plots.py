"""The report's figures: one idea each, colours that colour-blind readers can tell apart (Okabe and
Ito 2008).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

# not pyplot, which keeps every figure in a global
from matplotlib.figure import Figure

from rmat_jax.evals.gauges import Openness
from rmat_jax.evals.heldout import Mean

BLUE, LIGHT_BLUE, VERMILLION, ORANGE, GREY, INK = (
    "#0072B2",
    "#A9CFE5",
    "#D55E00",
    "#E69F00",
    "#A0A0A0",
    "#333333",
)
# memory is blue in all figures
STREAM_COLOURS = {"full": GREY, "local": ORANGE, "memory": BLUE}
WITH, WITHOUT = "with memory", "memory emptied before each chunk"


def training(
    file: Path,
    train: Sequence[tuple[float, float]],
    heldout: Sequence[tuple[float, float]],
    quantity: str,
) -> None:
    """A curve of training and points of held-out values, (step, value) each."""
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
    """Bits per token by place, with memory (`kept`) and without (`cut`), and what memory saves.

    `marks` are labelled vertical lines, error bars two standard errors. `cut=None` is a model
    without memory: one line, no second panel.
    """
    figure, axes = new_figure(title, panels=1 if cut is None else 2)
    upper = axes if cut is None else axes[0]
    if cut is not None:
        upper.plot(
            places, cut, "s--", color=VERMILLION, markersize=3.5, linewidth=1.4, label=WITHOUT
        )
    upper.plot(
        places,
        kept,
        "o-",
        color=BLUE,
        markersize=4,
        linewidth=1.4,
        label="held out" if cut is None else WITH,
    )
    upper.set_ylabel("bits per token")
    legend(upper)
    lower = upper
    if cut is not None:
        lower = axes[1]
        differences(lower, places, gains, BLUE)
        lower.set_ylabel("memory saves\nbits per token")
    if log:
        token_axis(lower, places)
    mark(upper, lower, marks)
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
    """Bits per token after the memory was emptied once, beside the memory as it was and one that is
    always emptied.
    """
    figure, (upper, lower) = new_figure("After the memory was emptied once", panels=2)
    upper.plot(places, cut, "s--", color=VERMILLION, markersize=3.5, linewidth=1.4, label=WITHOUT)
    upper.plot(
        places, once, "D-", color=ORANGE, markersize=4, linewidth=1.4, label="emptied once, at 0"
    )
    upper.plot(places, kept, "o-", color=BLUE, markersize=4, linewidth=1.4, label="never emptied")
    upper.set_ylabel("bits per token")
    legend(upper)
    differences(lower, places, costs, ORANGE)
    lower.set_ylabel("emptying it once\ncosts bits per token")
    token_axis(lower, places)
    lower.set_xlabel("tokens since it was emptied")
    save(figure, file)


def reach(
    file: Path,
    reaches: Sequence[int],
    per_byte: np.ndarray,
    gains: Sequence[Mean],
    marks: Mapping[str, float],
) -> None:
    """Bits per byte by how far the state reaches back, and what that saves. The first reach is 0,
    the chunk alone.
    """
    figure, (upper, lower) = new_figure("Loss by how far the state reaches back", panels=2)
    # a log axis has no place for 0
    places = np.array([reaches[1] / 2, *reaches[1:]])
    upper.plot(places, per_byte, "o-", color=BLUE, markersize=4, linewidth=1.4)
    upper.set_ylabel("bits per byte")
    differences(lower, places, gains, BLUE)
    lower.set_ylabel("context saves\nbits per token")
    token_axis(lower, places)
    ticks = lower.get_xticks()
    names = ["the chunk\nalone", *(count_name(tick) for tick in ticks[1:])]
    lower.set_xticks(ticks, names)
    mark(upper, lower, marks)
    lower.set_xlabel("reach (tokens before the chunk)")
    save(figure, file)


def heatmap(
    file: Path,
    title: str,
    contexts: Sequence[int],
    depths: Sequence[float],
    accuracy_DN: np.ndarray,
    control_N: np.ndarray | None,
    chance: float,
) -> None:
    """Accuracy by context length and depth; in a row of its own that with an emptied memory, if
    there is one.
    """
    figure = Figure(figsize=(7, 4.4), dpi=120, layout="constrained")
    panels = 1 if control_N is None else 2
    axes = np.ravel(figure.subplots(panels, sharex=True, height_ratios=[len(depths), 1][:panels]))
    axes[0].set_title(title, loc="left", fontweight="bold", fontsize=11)
    rows = [accuracy_DN] if control_N is None else [accuracy_DN, control_N[None]]
    for panel, shares in zip(axes, rows, strict=True):
        image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (y, x), share in np.ndenumerate(shares):
            panel.text(
                x,
                y,
                f"{share:.0%}",
                ha="center",
                va="center",
                color="white" if share > 0.5 else INK,
                fontsize=9,
            )
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    axes[0].set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes[0].set_ylabel("depth of the fact in the context")
    if control_N is not None:
        axes[1].set_yticks([0], ["memory\nemptied"])
    axes[-1].set_xticks(range(len(contexts)), [count_name(tokens) for tokens in contexts])
    axes[-1].set_xlabel("context (tokens)")
    bar = figure.colorbar(image, ax=axes.tolist(), label="accuracy", format="{x:.0%}")
    bar.outline.set_visible(False)
    bar.ax.axhline(chance, color=VERMILLION, linewidth=2)
    bar.ax.text(
        -0.2,
        chance,
        "guessing ",
        color=VERMILLION,
        fontsize=8,
        ha="right",
        va="center",
        transform=bar.ax.get_yaxis_transform(),
    )
    save(figure, file)


def keys(
    file: Path,
    counts: Sequence[int],
    kept: Sequence[Mean],
    cut: Sequence[Mean] | None,
    chance: float,
) -> None:
    """Accuracy by how many pairs were told."""
    figure, axes = new_figure("Accuracy by number of pairs")
    for means, colour, style, label in (
        (kept, BLUE, "o-", WITH),
        (cut, VERMILLION, "s--", "memory emptied before the question"),
    ):
        if means is not None:
            values, errors = (
                np.array([getattr(mean, name) for mean in means]) for name in ("value", "error")
            )
            axes.errorbar(
                counts,
                values,
                2 * errors,
                fmt=style,
                color=colour,
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


def differences(axes: Axes, places: np.ndarray, means: Sequence[Mean], colour: str) -> None:
    """Points with bars of two standard errors, and the line at zero."""
    axes.axhline(0, color=INK, linewidth=0.8)
    values, errors = (
        np.array([getattr(mean, name) for mean in means]) for name in ("value", "error")
    )
    axes.errorbar(
        places,
        values,
        2 * np.nan_to_num(errors),
        fmt="o",
        color=colour,
        markersize=4,
        elinewidth=1.2,
    )


def token_axis(axes: Axes, places: np.ndarray) -> None:
    """A logarithmic x axis with a tick at each power of two, or at each other one where there are
    many.
    """
    axes.set_xscale("log", base=2)
    powers = np.arange(np.floor(np.log2(places[0])), np.ceil(np.log2(places[-1])) + 1)
    powers = powers[:: 1 + len(powers) // 14]
    axes.set_xticks(2.0**powers, [count_name(2.0**power) for power in powers])
    axes.minorticks_off()


def count_name(count: float) -> str:
    """512, 4k, 1M: of tokens, in powers of two."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def mark(upper: Axes, lower: Axes, marks: Mapping[str, float]) -> None:
    """Labelled vertical lines, where they lie inside the plot."""
    for label, place in marks.items():
        if lower.get_xlim()[0] < place < lower.get_xlim()[1]:
            for panel in {upper, lower}:
                panel.axvline(place, color=INK, linewidth=0.9, linestyle=":")
            # In the lower panel: the upper one has the legend.
            lower.text(
                place,
                0.98,
                f" {label}",
                transform=lower.get_xaxis_transform(),
                va="top",
                color=INK,
                fontsize=8,
            )


def stack_streams(axes: Axes, streams: Sequence[str], weights_LS: np.ndarray) -> None:
    """A bar a layer, of what its streams weigh."""
    layers, left = np.arange(1, len(weights_LS) + 1), np.zeros(len(weights_LS))
    for stream, weights in zip(streams, weights_LS.T, strict=True):
        bars = axes.barh(
            layers, weights, left=left, color=STREAM_COLOURS[stream], height=0.72, label=stream
        )
        labels = [f"{weight:.0%}" if weight > 0.05 else "" for weight in weights]
        axes.bar_label(
            bars,
            labels,
            label_type="center",
            fontsize=9,
            color="white" if stream == "memory" else INK,
        )
        left += weights


def fusion(file: Path, streams: Sequence[str], weights_LS: np.ndarray) -> None:
    """Each layer's mixture of the attention streams, as a stacked bar."""
    layers = np.arange(1, len(weights_LS) + 1)
    figure, axes = new_figure("Fusion weights by layer", height=bars_height(len(layers)))
    stack_streams(axes, streams, weights_LS)
    axes.set(xlabel="share of the attention's output", ylabel="layer", xlim=(0, 1))
    axes.set_yticks(layers)
    axes.set_ylim(len(layers) + 0.6, 0.4)
    axes.grid(False)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(streams),
        frameon=False,
        borderaxespad=0.2,
    )
    save(figure, file)


def gates(file: Path, openness: Openness, start: float) -> None:
    """Each layer's mean update gate, the middle 80 % of its values, and where it started."""
    layers = np.arange(1, len(openness.mean_L) + 1)
    figure, axes = new_figure("Update gate by layer", height=bars_height(len(layers)))
    spread_L = openness.high_L - openness.low_L
    axes.barh(
        layers, spread_L, left=openness.low_L, height=0.4, color=LIGHT_BLUE, label="middle 80 %"
    )
    axes.plot(openness.mean_L, layers, "o", color=BLUE, markersize=8, label="mean")
    axes.axvline(start, color=INK, linestyle=":", linewidth=1.2, label="start of training")
    axes.set(xlabel="openness z (0: keep the slot, 1: replace it)", ylabel="layer", xlim=(0, 1))
    axes.set_yticks(layers)
    axes.set_ylim(len(layers) + 0.6, 0.4)
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.2)
    save(figure, file)


def bars_height(count: int) -> float:
    """Inches for so many horizontal bars."""
    return min(1.3 + 0.42 * count, 9)


def new_figure(title: str, panels: int = 1, height: float | None = None) -> tuple[Figure, Axes]:
    """A figure in the report's style, its panels above each other."""
    figure = Figure(
        figsize=(7, height or (3.2 if panels == 1 else 4.6)), dpi=120, layout="constrained"
    )
    axes = figure.subplots(panels, sharex=True, height_ratios=[3, 2][:panels])
    for panel in np.ravel(axes):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#E5E5E5", linewidth=0.8)
        panel.set_axisbelow(True)
    np.ravel(axes)[0].set_title(title, loc="left", fontweight="bold", fontsize=11)
    return figure, axes


def legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9)


def save(figure: Figure, file: Path) -> None:
    figure.savefig(file)
