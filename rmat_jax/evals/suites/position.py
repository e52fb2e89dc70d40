"""Suite `position`: held-out loss by place in the document and in the chunk, with and without
memory; baselines; gauges.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.config import Config
from rmat_jax.evals import plots
from rmat_jax.evals.baselines import TRAINING_BYTES
from rmat_jax.evals.heldout import Heldout, Mean, clustered_mean, offset_bins
from rmat_jax.evals.measure import Measured, measure
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.modules import memory

# a bin with fewer is not drawn
MIN_TOKENS = 50
# groups of positions in the chunk
CHUNK_BINS = 16

# of the section: markdown, numbers
Part = tuple[str, dict[str, Any]]


def check(subject: Subject, options: Options) -> None:
    """Raises UserError where the data of the run is no longer there."""
    _ = subject.data


def position(subject: Subject, options: Options, out: Path) -> Section:
    """Three readings of the held-out tokens: as they are, memory emptied before each chunk, emptied
    once a document.
    """
    return describe(measure(subject.config, subject.params, subject.data), subject.config, out)


def describe(measured: Measured, config: Config, out: Path) -> Section:
    """The section, and its figures in `out`."""
    judged = verdict(measured, config)
    parts = {
        "scores": _scores(measured, config),
        "by_offset": _by_offset(out, measured, config),
        "two_chunks": _two_chunks(out, measured),
        "recovery": _recovery(out, measured, config),
        "fusion": _fusion(out, measured, config),
        "gates": _gates(out, measured, config),
    }
    values = {name: numbers for name, (_, numbers) in parts.items()}
    if measured.cut is not None:
        values["gain"] = measured.gain()._asdict() | {"unit": measured.unit}
    text = "\n\n".join(filter(None, [judged, *(text for text, _ in parts.values())]))
    first = judged.partition(". ")[0].rstrip(".")
    return Section("Held-out loss by position", f"{headline(measured)} {first}.", text, values)


def headline(measured: Measured) -> str:
    """One sentence with the scores to compare."""
    kept = f"**{measured.kept.score:.3f}{' bits per byte' if measured.is_text else ''}**"
    if measured.cut is not None:
        kept += f" with memory, {measured.cut.score:.3f} without (memory emptied before each chunk)"
    if not measured.is_text:
        return f"Held-out accuracy: {kept}. Higher is better."
    others = f"`gzip -9` {min(measured.gzip):.3f}, an order-2 byte model {measured.order2:.3f}"
    return f"Held-out text: {kept}; {others}. Lower is better."


def verdict(measured: Measured, config: Config) -> str:
    """Whether memory helps, from the numbers alone: a difference counts from two standard errors
    on.
    """
    if measured.cut is None:
        return "This model has no memory."
    gain = measured.gain()
    size = f"{abs(gain.value):.4f} ± {gain.error:.4f} {measured.unit}"
    over = f"(standard error over {gain.units} {measured.kept.units()[0]})"
    if math.isnan(gain.error):
        text = f"**Whether memory helps cannot be told** from a single unit: {gain.value:+.4f} {measured.unit}."
    elif gain.value > 2 * gain.error:
        text = f"**Memory helps:** it {'saves' if measured.is_text else 'adds'} {size} {over}."
    elif gain.value < -2 * gain.error:
        text = f"**Memory did not help:** it costs {size} {over}."
    else:
        text = (
            f"**Memory did not help measurably:** its gain of {gain.value:+.4f} ± {gain.error:.4f} {measured.unit} "
            f"{over} is within two standard errors of zero."
        )
    later = measured.kept.offsets >= config.model.chunk_len
    if measured.is_text and later.any() and not later.all():
        beyond = measured.gain(later)
        text += (
            f" Beyond the first {config.model.chunk_len} tokens of a document, where there always is something to "
            f"remember, the gain is {beyond.value:+.4f} ± {beyond.error:.4f}."
        )
    return text + (
        " Both readings use the weights that were trained with memory: what a model trained without it would reach, "
        "only such a training tells."
    )


def _scores(measured: Measured, config: Config) -> Part:
    kept, cut = measured.kept, measured.cut
    rows = {"this model": kept}
    if cut is not None:
        rows = {
            "this model, with memory": kept,
            "this model, memory emptied before each chunk": cut,
        }
    values = {"with_memory": _numbers(kept), "gzip": measured.gzip, "order2": measured.order2}
    if cut is not None:
        values["without_memory"] = _numbers(cut)
    lines = [(name, f"{h.bits_per_token:.3f}", f"{h.accuracy:.3f}") for name, h in rows.items()]
    if not measured.is_text:
        choices = config.data.choices
        lines.append(("guessing", f"{math.log2(choices):.3f}", f"{1 / choices:.3f}"))
        return table(("", "bits per token", "accuracy"), lines), values
    lines = [(name, f"{rows[name].bits_per_byte:.3f}", *rest) for name, *rest in lines]
    lines += [
        ("order-2 byte model, trained on the training text", f"{measured.order2:.3f}", "", ""),
        ("`gzip -9`, each document on its own", f"{measured.gzip[0]:.3f}", "", ""),
        ("`gzip -9`, all documents as one file", f"{measured.gzip[1]:.3f}", "", ""),
    ]
    notes = (
        f"All on the same {kept.num_bytes:,} bytes of held-out text ({kept.scored:,} scored tokens). This model and "
        f"the order-2 model have read training text (the latter at most {TRAINING_BYTES >> 20} MiB) and carry nothing "
        "across documents. gzip has read nothing before; as one file it may look back across documents. The headline "
        "gives the better of its two numbers."
    )
    return table(
        ("", "bits per byte", "bits per token", "accuracy"), lines
    ) + "\n\n" + notes, values


def _numbers(heldout: Heldout) -> dict[str, Any]:
    names = ("bits_per_byte", "bits_per_token", "accuracy", "scored", "num_bytes")
    return {name: getattr(heldout, name) for name in names}


def _by_offset(out: Path, measured: Measured, config: Config) -> Part:
    """Loss by position in the document."""
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
    if model.has_memory:
        marks["queue is full"] = model.chunk_len * model.slots // model.writes
    plots.loss_by_place(
        out / "document.png",
        "Loss by position in the document",
        "position in the document (tokens)",
        np.sqrt(edges[:-1] * (edges[1:] - 1.0))[drawn],
        kept_bits[drawn],
        None if cut is None else cut_bits[drawn],
        []
        if cut is None
        else _differences(cut, kept, offset_bins(kept.offsets), np.flatnonzero(drawn)),
        marks=marks,
        log=True,
    )
    text = "Bits per token fall along a document if the model uses what it has read."
    if cut is not None:
        text += " In its first chunk a document has no memory yet. Bars: two standard errors."
    return _subsection("By position in the document", "document.png", text), values


def _two_chunks(out: Path, measured: Measured) -> Part:
    """Loss by position in two consecutive chunks of one document: what the border between them
    costs.

    The chunk in which a document begins is left out, where it is short of context for another
    reason.
    """
    if not measured.is_text:
        return "", {}
    kept, cut, chunk_len = measured.kept, measured.cut, measured.kept.chunk_len
    # of the chunk in the document
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
    plots.loss_by_place(
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
    text = f"A token at the start of a chunk (the first {group} of {chunk_len}) costs {kept.bits[first].mean():.3f} bits"
    text += "" if cut is None else f" with memory and {cut.bits[first].mean():.3f} without"
    text += f", one further on {kept.bits[rest].mean():.3f}"
    text += "" if cut is None else f" and {cut.bits[rest].mean():.3f}"
    border = difference_of_means(kept.bits, first, rest, kept.units()[1])
    text += f": a border costs {border.value:+.4f} ± {border.error:.4f} bits at the {group} tokens behind it"
    seen = abs(border.value) > 2 * border.error
    text += (
        "" if seen else ", which is within two standard errors of nothing: no saw-tooth can be told"
    )
    text += ". Bars: two standard errors. The chunk in which a document begins is left out."
    values = {
        "places": places,
        "with_memory": kept_bits,
        "without_memory": cut_bits,
        "group": group,
    }
    values["border_costs"] = border._asdict()
    return _subsection("By position in the chunk", "chunk.png", text), values


def _recovery(out: Path, measured: Measured, config: Config) -> Part:
    """Loss after the memory was emptied once, by how long ago."""
    once, model = measured.once, config.model
    if not measured.is_text or measured.cut is None:
        return "", {}
    if once is None:
        filling = -(-model.slots // model.writes) * model.chunk_len
        text = f"No held-out document is long enough to empty a full queue in it ({filling:,} tokens and two chunks)."
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
    plots.recovery(out / "cut.png", places, *(np.array(curves[name]) for name in curves), costs)
    text = (
        f"The memory was emptied at one chunk border in the second half of each of {once.documents} documents, where the "
        f"queue was full. {recovered(costs, edges[shown], edges[shown + 1])} A point stands for a chunk, then for one, "
        "two, four, ... more; bars: two standard errors."
    )
    values = {
        "documents": once.documents,
        "edges": edges,
        "bins": shown,
        "cost": [c._asdict() for c in costs],
    } | curves
    return _subsection("After the memory was emptied once", "cut.png", text), values


def recovered(costs: list[Mean], begins: np.ndarray, ends: np.ndarray) -> str:
    """How long recovery takes, from the numbers alone. Bin i holds begins[i] <= tokens since the
    cut < ends[i].
    """
    measurable = [cost.value > 2 * cost.error for cost in costs]
    if not any(measurable):
        if any(cost.value < -2 * cost.error for cost in costs):
            return "What followed was cheaper for it in places and nowhere dearer: this memory does harm."
        return f"That costs nothing measurable in the {ends[-1]:,} tokens after it."
    worst = max(np.flatnonzero(measurable), key=lambda i: costs[i].value)
    text = (
        f"That costs most {begins[worst]:,} to {ends[worst]:,} tokens after it: {costs[worst].value:+.4f} ± "
        f"{costs[worst].error:.4f} bits per token."
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
    """What the tokens of each wanted bin cost more in one reading than in another, in bits per
    token.
    """
    more, units = one.bits - other.bits, other.units()[1]
    return [clustered_mean(more[bins == bin], units[bins == bin]) for bin in wanted]


def difference_of_means(
    values: np.ndarray, one: np.ndarray, other: np.ndarray, units: np.ndarray
) -> Mean:
    """Mean over the tokens of `one` less that over `other` (masks), with `clustered_mean`'s
    standard error.
    """
    means = values[one].mean(), values[other].mean()
    shares = one * (values - means[0]) / one.sum() - other * (values - means[1]) / other.sum()
    error = clustered_mean(shares, units)
    return Mean(float(means[0] - means[1]), error.error * len(values), error.units)


def _fusion(out: Path, measured: Measured, config: Config) -> Part:
    streams, weights_LS, of_heads = config.model.fused, measured.fusion_LS, ""
    if len(streams) == 1:
        return "", {}
    if weights_LS.ndim == 3:
        weights_LS, of_heads = weights_LS.mean(2), ", means over heads"
    plots.fusion(out / "fusion.png", streams, weights_LS)
    low, high = weights_LS.min(0), weights_LS.max(0)
    shares = ", ".join(f"{name} {low[i]:.0%} to {high[i]:.0%}" for i, name in enumerate(streams))
    text = f"Shares over the layers (layer 1 reads the tokens){of_heads}: {shares}. At the start: {1 / len(streams):.0%} each."
    return _subsection("Fusion weights", "fusion.png", text), {
        "streams": streams,
        "by_layer": weights_LS,
    }


def _gates(out: Path, measured: Measured, config: Config) -> Part:
    model, openness = config.model, measured.openness
    if openness is None:
        return "", {}
    if not openness.writes:
        return (
            "### Gate openness\n\nNo held-out document is long enough for a slot to be written twice.",
            {},
        )
    plots.gates(
        out / "gates.png", openness, float(memory.openness(model.gate_bias, model.gate_curve))
    )
    text = f"The update gate over {openness.writes:,} writes to slots that held something of the same document. "
    if model.gate == "evicted":
        turn = model.chunk_len * model.slots // model.writes
        kept = ", ".join(f"{1 - z:.0%}" for z in openness.mean_L)
        text += f"A slot's turn comes every {turn:,} tokens; on average this much of it then stays, by layer: {kept}."
    return _subsection("Gate openness", "gates.png", text), openness._asdict()


def _subsection(title: str, file: str, text: str) -> str:
    return f"### {title}\n\n{text}\n\n{figure(title, file)}"
