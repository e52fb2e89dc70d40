"""The figures of `inspect`."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes

# not pyplot, which keeps every figure in a global
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

from rmat_jax.colours import BLUE, GREY, INK, VERMILLION
from rmat_jax.config import RMATConfig
from rmat_jax.drawing import SMALL, count_name, dress, legend, mark, save, set_title, sheet
from rmat_jax.evals.conditions import EMPTIED, KEPT, OF_READINGS
from rmat_jax.evals.look.count import Counts, ratio
from rmat_jax.evals.look.text import DISTANCES, OPACITY, Readout, TextGauge, level
from rmat_jax.evals.plots import new_figure

# the most layers that are drawn as lines; of more layers, so many are chosen evenly
MOST_LINES = 6
# a distance with fewer words is not drawn
MIN_WORDS = 10
# the size of the passage in characters
COLUMNS, ROWS = 72, 12


def heads(file: Path, config: RMATConfig, counts: Counts) -> None:
    """Draws the memory's share of each head's output, and how many slots a head attends to."""
    values = {
        "Memory's share of a head's output": (
            ratio(counts.share_LH, counts.reads),
            "{:.0%}",
            (0, 1),
        ),
        "Slots that a head attends to": (
            ratio(counts.slots_LH, counts.reads),
            "{:.0f}",
            (1, config.memory.slots),
        ),
    }
    height = 1.4 + 0.42 * min(config.num_layers, 16)
    figure = sheet(7, height)
    for axes, (title, (values_LH, form, limits)) in zip(
        figure.subplots(1, 2), values.items(), strict=True
    ):
        image = axes.imshow(values_LH, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="auto")
        set_title(axes, title)
        axes.set(xlabel="head", ylabel="layer")
        for axis, count in ((axes.xaxis, config.num_heads), (axes.yaxis, config.num_layers)):
            step = -(-count // 12)
            axis.set_ticks(np.arange(0, count, step), np.arange(1, count + 1, step))
        bar = figure.colorbar(image, ax=axes, shrink=0.9)
        bar.ax.yaxis.set_major_formatter(lambda value, _, form=form: form.format(value))
        if values_LH.size <= 64:
            for (layer, head), value in np.ndenumerate(values_LH):
                dark = value > limits[0] + 0.6 * (limits[1] - limits[0])
                colour = "white" if dark else INK
                axes.text(
                    head,
                    layer,
                    form.format(value),
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    color=colour,
                )
    save(figure, file)


def gates(file: Path, config: RMATConfig, counts: Counts) -> None:
    """Draws the openness along the text and along the chunk, one line a layer."""
    time = counts.means_by_time()
    figure, upper, lower = _two_figures(
        "How far the update gates open along the text", "... and along the chunk"
    )
    middles = np.arange(config.memory.writes) * config.run_len + (config.run_len - 1) / 2
    for axes, places, open_L in (
        (upper, time["tokens"], time["open_L"].T),
        (lower, middles, ratio(counts.open_LK, counts.writes_K)),
    ):
        _layer_lines(axes, places, open_L)
        axes.set_ylabel("openness\n(0 keeps, 1 replaces)")
        _from_zero(axes)
    legend(upper)
    upper.set_xlabel("place in the text (tokens)")
    upper.xaxis.set_major_formatter(_thousands)
    lower.set_xlabel("place in the chunk of what is written (tokens)")
    save(figure, file)


def channels(file: Path, open_LD: np.ndarray) -> None:
    """Draws the mean openness of every channel, in its order."""
    figure, axes = new_figure("How far the gate of each channel opens")
    share = (np.arange(open_LD.shape[1]) + 0.5) / open_LD.shape[1]
    _layer_lines(axes, share, np.sort(open_LD, axis=1))
    axes.set(
        xlabel="channels, those that keep most first", ylabel="mean openness\n(0 keeps, 1 replaces)"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    legend(axes)
    axes.xaxis.set_major_formatter("{x:.0%}")
    save(figure, file)


def retention(file: Path, config: RMATConfig, retention_LA: np.ndarray) -> None:
    """Draws how much is left of an entry by the chunks since it was written."""
    figure, axes = new_figure("How much of what was written is still in the memory")
    chunks = np.arange(retention_LA.shape[1])
    _layer_lines(axes, chunks, retention_LA, drawstyle="steps-post")
    axes.set(
        xlabel=f"chunks since it was written (of {config.chunk_len} tokens)",
        ylabel="left of the entry",
    )
    axes.set(xlim=(0, chunks[-1]), ylim=(0, 1.03))
    axes.yaxis.set_major_formatter("{x:.0%}")
    legend(axes)
    mark([axes], {"first turn to leave": config.memory.slots / config.memory.writes})
    save(figure, file)


def ages(file: Path, counts: Counts) -> None:
    """Draws the attention on slots by their age, and by the age of what they hold."""
    figure, upper, lower = _two_figures(
        "Which slots are read, by when they were written", "... and by how old their content is"
    )
    mass_LA, even_LA = counts.read_by_age_LA()
    mass_LX, even_LX = counts.read_by_content_LX()
    for axes, mass, even in ((upper, mass_LA, even_LA), (lower, mass_LX, even_LX)):
        places = np.arange(1, mass.shape[1] + 1) if axes is upper else np.arange(mass.shape[1])
        _layer_lines(axes, places, mass, marker="o", markersize=3.5)
        mean = even.mean(0)
        axes.plot(places, mean, ":", color=INK, linewidth=1.2, label="if all slots were read alike")
        axes.set_ylabel("share of the attention")
        _from_zero(axes)
        axes.yaxis.set_major_formatter("{x:.0%}")
    upper.set_xlabel("chunks since the slot was last written")
    upper.xaxis.set_major_locator(FixedLocator(np.arange(1, mass_LA.shape[1] + 1), nbins=10))
    upper.set_xlim(0.5, mass_LA.shape[1] + 0.5)
    legend(upper)
    lower.set_xlabel("mean age of what the slot holds, in chunks (from this number to the next)")
    lower.set_xticks(
        np.arange(mass_LX.shape[1]), [count_name(2.0**power) for power in range(mass_LX.shape[1])]
    )
    save(figure, file)


def places(file: Path, config: RMATConfig, counts: Counts) -> None:
    """Draws the memory's share along the chunk, and the bits that it saves there."""
    figure, (upper, lower) = new_figure("Where in the chunk the memory is used", panels=2)
    group = -(-config.chunk_len // 64)

    def grouped(x_C):
        edges = np.arange(0, config.chunk_len, group)
        return np.add.reduceat(x_C, edges, axis=-1)

    middles = np.arange(0, config.chunk_len, group) + (group - 1) / 2
    _layer_lines(upper, middles, ratio(grouped(counts.share_LC), grouped(counts.share_reads_C)))
    legend(upper)
    upper.set_ylabel("memory's share\nof attention's output")
    _from_zero(upper)
    upper.yaxis.set_major_formatter("{x:.0%}")
    saved = ratio(
        grouped(counts.place_bits_2C[1] - counts.place_bits_2C[0]), grouped(counts.place_tokens_C)
    )
    lower.axhline(0, color=INK, linewidth=0.8)
    lower.bar(middles, saved, width=0.85 * group, color=BLUE)
    lower.set(xlabel="place in the chunk (tokens)", ylabel="memory saves\nbits per token")
    save(figure, file)


def _two_figures(above: str, below: str) -> tuple[Figure, Axes, Axes]:
    """Makes two panels, each with its own axis and title."""
    figure = sheet(7, 5.8)
    both = figure.subplots(2)
    for axes, title in zip(both, (above, below), strict=True):
        dress(axes, title)
    return figure, *both


def along(file: Path, counts: Counts, has_memory: bool) -> None:
    """Draws bits per token along the text."""
    time = counts.means_by_time()
    figure, axes = new_figure("What the text costs along its way", panels=2 if has_memory else 1)
    upper = axes[0] if has_memory else axes
    if has_memory:
        upper.plot(
            time["tokens"],
            time["cut"],
            color=EMPTIED.colour,
            linewidth=1.2,
            linestyle=EMPTIED.line,
            label=OF_READINGS[EMPTIED],
        )
    upper.plot(
        time["tokens"],
        time["kept"],
        color=KEPT.colour,
        linewidth=1.4,
        label=OF_READINGS[KEPT] if has_memory else "this model",
    )
    upper.set_ylabel("bits per token")
    legend(upper)
    if has_memory:
        axes[1].axhline(0, color=INK, linewidth=0.8)
        axes[1].plot(time["tokens"], time["cut"] - time["kept"], color=BLUE, linewidth=1.2)
        axes[1].set_ylabel("memory saves\nbits per token")
    np.ravel(axes)[-1].set_xlabel("place in the text (tokens)")
    np.ravel(axes)[-1].xaxis.set_major_formatter(_thousands)
    save(figure, file)


def words(file: Path, config: RMATConfig, gauge: TextGauge) -> bool:
    """Draws what memory saves on a word, by how long ago the text had it before.

    Returns:
        Whether there were enough words to draw; else nothing is written.
    """
    drawn = np.flatnonzero(gauge.count_X >= MIN_WORDS)
    if not len(drawn):
        return False
    count, saved, squares = (x[drawn] for x in (gauge.count_X, gauge.saved_X, gauge.squares_X))
    mean = saved / count
    error = np.sqrt(np.maximum(squares / count - mean**2, 0) / count)
    figure, axes = new_figure("What memory saves on a word, by when the text had it before")
    axes.axhline(0, color=INK, linewidth=0.8)
    colours = [GREY if x == DISTANCES else BLUE for x in drawn]
    axes.bar(np.arange(len(drawn)), mean, color=colours, width=0.7)
    axes.errorbar(
        np.arange(len(drawn)), mean, 2 * error, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2
    )
    labels = ["\nnever" if x == DISTANCES else count_name(2.0**x) for x in drawn]
    axes.set_xticks(np.arange(len(drawn)), labels)
    axes.set(
        xlabel="tokens since the word was last read (from this number to the next)",
        ylabel="bits saved a word",
        xlim=(-0.5, len(drawn) - 0.5),
    )
    marks = {
        "one chunk": config.chunk_len,
        "the queue's length": config.chunk_len * config.memory.slots / config.memory.writes,
    }
    # the border between two bars
    mark([axes], {name: np.searchsorted(drawn, np.log2(x)) - 0.5 for name, x in marks.items()})
    axes.grid(False, axis="x")
    save(figure, file)
    return True


def passage(file: Path, readouts: Sequence[Readout], start: int) -> None:
    """Draws a piece of text; the colour behind a character shows what memory saved on it."""
    colours = {1: matplotlib.colors.to_rgb(BLUE), -1: matplotlib.colors.to_rgb(VERMILLION)}
    font = FT2Font(font_manager.findfont("DejaVu Sans Mono"))
    cells, row, column = [], 0, 0
    for readout in readouts:
        for character in readout.text:
            if column == COLUMNS:
                row, column = row + 1, 0
            cells.append((row, column, character, level(readout.cut - readout.kept)))
            column += 1
            if character == "\n":
                row, column = row + 1, 0
    cells = [cell for cell in cells if cell[0] < ROWS]
    height = max(cell[0] for cell in cells) + 1
    figure = sheet(7, 0.9 + 0.2 * height)
    axes = figure.subplots()
    axes.set(xlim=(-0.6, COLUMNS - 0.4), ylim=(height - 0.4, -0.6))
    axes.axis("off")
    set_title(axes, f"Where memory helped most, from token {start:,} on")
    for sign, meaning in ((1, "memory saved bits"), (-1, "memory cost bits")):
        axes.add_patch(Rectangle((0, 0), 0, 0, color=colours[sign], label=meaning))
    legend(axes)
    for row, column, character, shade in cells:
        if shade:
            colour = (*colours[np.sign(shade)], OPACITY * abs(shade))
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, linewidth=0))
        shown = (
            character if character.isprintable() and font.get_char_index(ord(character)) else "·"
        )
        if character == "\n":
            shown = "¶" if shade else ""
        style = {
            "ha": "center",
            "va": "center",
            "family": "DejaVu Sans Mono",
            "fontsize": 10.5,
            "color": INK,
        }
        axes.text(column, row, shown, parse_math=False, **style)
    save(figure, file)


def _layer_lines(axes: Axes, places: np.ndarray, values_LX: np.ndarray, **style) -> None:
    """Draws a line for each layer, or for some of many layers, from light to dark."""
    count = len(values_LX)
    shown = np.unique(np.linspace(0, count - 1, min(count, MOST_LINES)).astype(int))
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 0.95, len(shown)))
    # lines of equal layers lie on each other, so later lines are narrower
    widths = np.linspace(1 + 0.6 * len(shown), 1.4, len(shown))
    for layer, colour, width in zip(shown, colours, widths, strict=True):
        axes.plot(
            places,
            values_LX[layer],
            color=colour,
            linewidth=width,
            label=f"layer {layer + 1}",
            **style,
        )


def _from_zero(axes: Axes) -> None:
    """Makes the y axis begin at zero, with room above the curves."""
    axes.update_datalim([(0, 0)], updatex=False)
    axes.autoscale_view(scalex=False)
    axes.set_ylim(0, None)


def _thousands(value: float, _) -> str:
    return f"{value:,.0f}"
