"""The section of `position`: scores and baselines, the verdict, and gauges."""

import math
from pathlib import Path
from typing import Any

from rmat_jax.config import Config
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import EMPTIED, KEPT, OF_READINGS
from rmat_jax.evals.suite import Options, Section, Subject, table
from rmat_jax.evals.suites.position import figures
from rmat_jax.evals.suites.position.baselines import TRAINING_BYTES
from rmat_jax.evals.suites.position.by_place import (
    Part,
    by_chunk_place,
    by_offset,
    recovery,
    subsection,
)
from rmat_jax.evals.suites.position.measure import Measured, measure
from rmat_jax.modules.memory import GRUGate, SlotGate
from rmat_jax.train.heldout import Heldout


def check(subject: Subject, options: Options) -> None:
    """Raises UserError where the data of the run is no longer there."""
    _ = subject.data


def position(subject: Subject, options: Options, out: Path) -> Section:
    """Measures the held-out tokens in all readings. Returns the section; its figures are in `out`.

    Raises:
        UserError: the data of the run is no longer there, or holds nothing out.
    """
    return describe(measure(subject.config, subject.params, subject.data), subject.config, out)


def describe(measured: Measured, config: Config, out: Path) -> Section:
    """Returns the section of what was measured, and writes its figures to `out`."""
    judged = verdict(measured, config)
    parts = {
        "scores": _scores(measured, config),
        "by_offset": by_offset(out, measured, config),
        "two_chunks": by_chunk_place(out, measured),
        "recovery": recovery(out, measured, config),
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
    """Returns one sentence with the scores to compare."""
    kept = f"**{measured.kept.score:.3f}{' bits per byte' if measured.is_text else ''}**"
    if measured.cut is not None:
        kept += f" {OF_READINGS[KEPT]}, {measured.cut.score:.3f} without ({OF_READINGS[EMPTIED]})"
    if not measured.is_text:
        return f"Held-out accuracy: {kept}. Higher is better."
    others = f"`gzip -9` {min(measured.gzip):.3f}, an order-2 byte model {measured.order2:.3f}"
    return f"Held-out text: {kept}; {others}. Lower is better."


def verdict(measured: Measured, config: Config) -> str:
    """Says from the numbers alone whether memory helps, and by how much.

    A difference counts from two standard errors on.
    """
    if measured.cut is None:
        return "This model has no memory."
    gain = measured.gain()
    size = f"{abs(gain.value):.4f} ± {gain.error:.4f} {measured.unit}"
    over = f"(standard error over {gain.units} {measured.kept.units()[0]})"
    if math.isnan(gain.error):
        text = (
            "**Whether memory helps cannot be told** from a single unit: "
            f"{gain.value:+.4f} {measured.unit}."
        )
    elif gain.positive:
        text = f"**Memory helps:** it {'saves' if measured.is_text else 'adds'} {size} {over}."
    elif gain.negative:
        text = f"**Memory did not help:** it costs {size} {over}."
    else:
        text = (
            f"**Memory did not help measurably:** its gain of {gain:+.4f} {measured.unit} "
            f"{over} is within two standard errors of zero."
        )
    chunk_len = config.model.chunk_len
    later = measured.kept.offsets >= chunk_len
    if measured.is_text and later.any() and not later.all():
        text += (
            f" Beyond the first {chunk_len} tokens of a document, where there always is "
            f"something to remember, the gain is {measured.gain(later):+.4f}."
        )
    return text + (
        " Both readings use weights that were trained with memory. Only a training without it "
        "tells what such a model would reach."
    )


def _scores(measured: Measured, config: Config) -> Part:
    kept, cut = measured.kept, measured.cut
    rows = {"this model": kept}
    if cut is not None:
        rows = {
            f"this model, {OF_READINGS[KEPT]}": kept,
            f"this model, {OF_READINGS[EMPTIED]}": cut,
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
    what = "answers in held-out dialogues" if config.data.answers_only else "held-out text"
    notes = (
        f"All on the same {kept.num_bytes:,} bytes of {what} ({kept.scored:,} scored "
        "tokens). This model and the order-2 model have read training text (the latter at most "
        f"{TRAINING_BYTES >> 20} MiB) and carry nothing across documents. gzip has read nothing "
        "before; with one file it may look back across documents. The headline gives the better of "
        "its two numbers."
    )
    head = ("", "bits per byte", "bits per token", "accuracy")
    return f"{table(head, lines)}\n\n{notes}", values


def _numbers(heldout: Heldout) -> dict[str, Any]:
    names = ("bits_per_byte", "bits_per_token", "accuracy", "scored", "num_bytes")
    return {name: getattr(heldout, name) for name in names}


def _fusion(out: Path, measured: Measured, config: Config) -> Part:
    branches, weights_LS = config.model.fused, measured.fusion_LS
    if len(branches) == 1:
        return "", {}
    plots.fusion(out / "fusion.png", branches, weights_LS)
    low, high = weights_LS.min(0), weights_LS.max(0)
    shares = ", ".join(f"{name} {low[i]:.0%} to {high[i]:.0%}" for i, name in enumerate(branches))
    text = (
        f"Shares over the layers (layer 1 reads the tokens): {shares}. "
        f"At the start: {1 / len(branches):.0%} each."
    )
    return subsection("Fusion weights", "fusion.png", text), {
        "branches": branches,
        "by_layer": weights_LS,
    }


def _gates(out: Path, measured: Measured, config: Config) -> Part:
    model, openness = config.model, measured.openness
    if openness is None:
        return "", {}
    if not openness.writes:
        text = "No held-out document is long enough for a slot to be written twice."
        return f"### Gate openness\n\n{text}", {}
    gate = {"slot": SlotGate, "gru": GRUGate}[model.memory.gate]
    start = float(gate.curve(model.memory.gate_bias))
    figures.gates(out / "gates.png", openness, start)
    turn = model.chunk_len * model.memory.slots // model.memory.writes
    kept = ", ".join(f"{1 - z:.0%}" for z in openness.mean_L)
    text = (
        f"The update gate over {openness.writes:,} writes to slots that held something of the "
        f"same document. A slot is written over every {turn:,} tokens; on average this much of it "
        f"then stays, by layer: {kept}."
    )
    return subsection("Gate openness", "gates.png", text), openness._asdict()
