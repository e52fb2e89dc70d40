"""The curves of `position`: loss by place in the document, by place in the chunk, and by distance
from the one place at which the memory was emptied.
"""

from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.config import Config
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suite import figure
from rmat_jax.evals.suites.position import figures
from rmat_jax.evals.suites.position.measure import Measured
from rmat_jax.train.heldout import Heldout, offset_bins

# a bin with fewer tokens is not drawn
MIN_TOKENS = 50
# the number of groups of positions in the chunk
CHUNK_BINS = 16

# a part of the section: markdown, numbers
Part = tuple[str, dict[str, Any]]


def subsection(title: str, file: str, text: str) -> str:
    """Returns markdown with a heading, a text and the figure `file`."""
    return f"### {title}\n\n{text}\n\n{figure(title, file)}"


def by_offset(out: Path, measured: Measured, config: Config) -> Part:
    """Returns the loss by position in the document, in power-of-two bins; nothing without text."""
    if not measured.is_text:
        return "", {}
    model, kept, cut = config.model, measured.kept, measured.cut
    edges, kept_bits, counts = kept.by_offset()
    cut_bits = None if cut is None else cut.by_offset()[1]
    values = {
        "edges": edges,
        "tokens": counts,
        "with_memory": kept_bits,
        "without_memory": cut_bits,
    }
    # a log axis has no place for 0
    drawn = (counts >= MIN_TOKENS) & (edges[:-1] > 0)
    if not drawn.any():
        return "", values
    marks = {"one chunk": model.chunk_len}
    if model.memory:
        marks["queue is full"] = model.chunk_len * model.memory.slots // model.memory.writes
    gains = []
    if cut is not None:
        gains = _differences(cut, kept, offset_bins(kept.offsets), np.flatnonzero(drawn))
    figures.loss_by_place(
        out / "document.png",
        "Loss by position in the document",
        "position in the document (tokens)",
        np.sqrt(edges[:-1] * (edges[1:] - 1.0))[drawn],
        kept_bits[drawn],
        None if cut is None else cut_bits[drawn],
        gains,
        marks=marks,
        log=True,
    )
    text = "Bits per token fall along a document if the model uses what it has read."
    if cut is not None:
        text += " In its first chunk a document has no memory yet. Bars: two standard errors."
    text += (
        f" {counts[~drawn].sum():,} tokens are left out: the first one of each document, and "
        f"positions with fewer than {MIN_TOKENS} tokens."
    )
    return subsection("By position in the document", "document.png", text), values


def by_chunk_place(out: Path, measured: Measured) -> Part:
    """Returns the loss by position in two consecutive chunks of a document; nothing without text.

    It shows what the border between chunks costs. The chunk in which a document begins is left out,
    since it lacks context for another reason.
    """
    if not measured.is_text:
        return "", {}
    kept, cut, chunk_len = measured.kept, measured.cut, measured.kept.chunk_len
    # the number of the chunk in the document
    number = (kept.offsets + (kept.positions - kept.offsets) % chunk_len) // chunk_len
    group = -(-chunk_len // CHUNK_BINS)
    per_chunk = -(-chunk_len // group)
    bins = np.where(number > 0, (number - 1) % 2 * per_chunk + kept.positions // group, -1)
    shown = np.flatnonzero([(bins == bin).sum() >= MIN_TOKENS for bin in range(2 * per_chunk)])
    if not len(shown):
        return "", {}
    kept_bits = np.array([kept.bits[bins == bin].mean() for bin in shown])
    cut_bits = None if cut is None else np.array([cut.bits[bins == bin].mean() for bin in shown])
    places = shown // per_chunk * chunk_len + shown % per_chunk * group + (group - 1) / 2
    figures.loss_by_place(
        out / "chunk.png",
        "Loss by position in two consecutive chunks",
        "position in the first chunk, then in the second (tokens)",
        places,
        kept_bits,
        cut_bits,
        [] if cut is None else _differences(cut, kept, bins, shown),
        marks={"border": chunk_len - 0.5},
        log=False,
    )
    first, rest = (kept.positions < group) & (number > 0), (kept.positions >= group) & (number > 0)
    border = difference_of_means(kept.bits, first, rest, kept.units()[1])
    text = (
        f"A token at the start of a chunk (the first {group} of {chunk_len}) costs "
        f"{kept.bits[first].mean():.3f} bits"
    )
    text += "" if cut is None else f" with memory and {cut.bits[first].mean():.3f} without"
    text += f", one further on {kept.bits[rest].mean():.3f}"
    text += "" if cut is None else f" and {cut.bits[rest].mean():.3f}"
    text += f": a border costs {border:+.4f} bits at the {group} tokens behind it"
    if not (border.positive or border.negative):
        text += ", which is within two standard errors of zero, so no saw-tooth is measurable"
    text += ". Bars: two standard errors. The chunk in which a document begins is left out."
    if len(shown) < 2 * per_chunk:
        text += f" So are positions with fewer than {MIN_TOKENS} tokens."
    values = {
        "places": places,
        "with_memory": kept_bits,
        "without_memory": cut_bits,
        "group": group,
        "border_costs": border._asdict(),
    }
    return subsection("By position in the chunk", "chunk.png", text), values


def recovery(out: Path, measured: Measured, config: Config) -> Part:
    """Returns the loss after the memory was emptied once, by how long ago that was.

    It returns nothing without text or without a memory.
    """
    once, model = measured.once, config.model
    if not measured.is_text or measured.cut is None:
        return "", {}
    if once is None:
        filling = -(-model.memory.slots // model.memory.writes) * model.chunk_len
        text = (
            "No held-out document is long enough to empty a full queue in it "
            f"({filling:,} tokens and two chunks)."
        )
        return f"### After the memory was emptied once\n\n{text}", {}
    bins = np.where(once.since >= 0, offset_bins(np.maximum(once.since, 0) // model.chunk_len), -1)
    shown = np.flatnonzero(np.bincount(bins[bins >= 0]) >= MIN_TOKENS)
    if not len(shown):
        return "", {}
    # bin i: chunks[i] <= whole chunks < chunks[i + 1]
    chunks = np.concatenate([[0], 2 ** np.arange(shown.max() + 1)])
    edges = chunks * model.chunk_len
    costs = _differences(once.heldout, measured.kept, bins, shown)
    curves = {
        "never": [measured.kept.bits[bins == bin].mean() for bin in shown],
        "once": [once.heldout.bits[bins == bin].mean() for bin in shown],
        "each_chunk": [measured.cut.bits[bins == bin].mean() for bin in shown],
    }
    places = (edges[shown] + edges[shown + 1]) / 2
    figures.recovery(out / "cut.png", places, *(np.array(curves[name]) for name in curves), costs)
    text = (
        "The memory was emptied at one chunk border in the second half of each of "
        f"{once.documents} documents, where the queue was full. "
        f"{recovered(costs, edges[shown], edges[shown + 1])} A point stands for a chunk, then for "
        "one, two, four, ... more; bars: two standard errors. Points of fewer than "
        f"{MIN_TOKENS} tokens are left out."
    )
    values = {
        "documents": once.documents,
        "edges": edges,
        "bins": shown,
        "cost": [c._asdict() for c in costs],
    } | curves
    return subsection("After the memory was emptied once", "cut.png", text), values


def recovered(costs: list[Mean], begins: np.ndarray, ends: np.ndarray) -> str:
    """Says from the numbers alone how long recovery takes.

    Args:
        costs: the cost of each bin, in bits per token.
        begins: the beginning of each bin, in tokens since the emptying.
        ends: the end of each bin; bin i holds begins[i] <= tokens < ends[i].
    """
    measurable = [cost.positive for cost in costs]
    if not any(measurable):
        if any(cost.negative for cost in costs):
            return (
                "Some of the tokens after it cost measurably less and none more, so this memory "
                "does harm."
            )
        return f"That costs nothing measurable in the {ends[-1]:,} tokens after it."
    worst = max(np.flatnonzero(measurable), key=lambda i: costs[i].value)
    text = (
        f"That costs most {begins[worst]:,} to {ends[worst]:,} tokens after it: "
        f"{costs[worst]:+.4f} bits per token."
    )
    halved = [i for i in range(worst, len(costs)) if costs[i].value < costs[worst].value / 2]
    last = np.flatnonzero(measurable)[-1]
    text += (
        f" It is less than half of that from {begins[halved[0]]:,} tokens on"
        if halved
        else " It is never halved"
    )
    if last + 1 < len(costs):
        return f"{text}, and not measurable from {begins[last + 1]:,} on."
    return f"{text}, and still measurable {begins[last]:,} to {ends[last]:,} tokens after the cut."


def _differences(one: Heldout, other: Heldout, bins: np.ndarray, wanted: np.ndarray) -> list[Mean]:
    """Returns how many bits per token the tokens of each wanted bin cost more in one reading."""
    more, units = one.bits - other.bits, other.units()[1]
    return [clustered_mean(more[bins == bin], units[bins == bin]) for bin in wanted]


def difference_of_means(
    values: np.ndarray, one: np.ndarray, other: np.ndarray, units: np.ndarray
) -> Mean:
    """Returns the mean over some tokens less that over others, with `clustered_mean`'s error.

    Args:
        values: [n] the values of the tokens.
        one: [n] mask of the tokens to compare.
        other: [n] mask of the tokens to compare them with.
        units: [n] as in `clustered_mean`.
    """
    means = values[one].mean(), values[other].mean()
    shares = one * (values - means[0]) / one.sum() - other * (values - means[1]) / other.sum()
    error = clustered_mean(shares, units)
    return Mean(float(means[0] - means[1]), error.error * len(values), error.units)
