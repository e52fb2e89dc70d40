"""The report of a run, for people: how well it predicts, whether memory helps, what gates and fusion weights do."""

import math
import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from rmat_jax.config import Config, UserError, to_dict
from rmat_jax.data import Data
from rmat_jax.evals import plots
from rmat_jax.evals.baselines import TRAINING_BYTES
from rmat_jax.evals.heldout import Mean, clustered_mean, offset_bins
from rmat_jax.evals.measure import Measured, measure
from rmat_jax.metrics import read_metrics
from rmat_jax.types import PyTree

MIN_TOKENS = 50  # a bin with fewer is not drawn
CHUNK_BINS = 32  # groups of positions in the chunk


def write_report(
    workdir: Path,
    out: Path,
    *,
    config: Config,
    params: PyTree,
    step: int,
    data: Data,
    command: str | None = None,
) -> Path:
    """Measures a model and writes `out/report.md`, with its figures beside it.

    Args:
        workdir: of the run; its `metrics.jsonl` and `samples.txt` are used if they are there.
        out: folder, made if it is not there.
        config: the experiment.
        params: the model's.
        step: optimiser steps that made them.
        data: of `make_data`.
        command: what trained the model, if it shall be shown.

    Returns:
        The path of report.md.
    """
    workdir, out = Path(workdir), Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be made: {error.strerror}; choose another") from error
    measured = measure(config, params, data)
    metrics = {split: [r for r in read_metrics(workdir) if r["split"] == split] for split in ("train", "heldout")}
    again = "python -m rmat_jax evaluate " + shlex.join([f"--workdir={workdir}", "--suite=position", f"--out={out}"])
    sections = [
        f"# {workdir.resolve().name}, step {step:,}",
        headline(measured),
        verdict(measured, config),
        _scores(measured, config),
        _training(out, metrics, measured),
        _by_offset(out, measured, config),
        _by_position(out, measured),
        _fusion(out, measured, config),
        _gates(out, measured, config),
        _sample(workdir),
        _facts(config, params, step, data, metrics, measured),
        "## Reproduce\n\n" + "\n".join(["```sh", *([command] if command else []), again, "```"]),
    ]
    report = out / "report.md"
    report.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    return report


def headline(measured: Measured) -> str:
    """One sentence with the scores to compare."""
    kept = f"**{measured.score(measured.kept):.3f}{' bits per byte' if measured.is_text else ''}**"
    if measured.cut is not None:
        kept += f" with memory, {measured.score(measured.cut):.3f} without (memory emptied before each chunk)"
    if not measured.is_text:
        return f"Held-out accuracy: {kept}. Higher is better."
    others = f"`gzip -9` {min(measured.gzip):.3f}, an order-2 byte model {measured.order2:.3f}"
    return f"Held-out text: {kept}; {others}. Lower is better."


def verdict(measured: Measured, config: Config) -> str:
    """Whether memory helps, from the numbers alone: a difference counts from two standard errors on."""
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


def _scores(measured: Measured, config: Config) -> str:
    kept, cut = measured.kept, measured.cut
    rows = {"this model": kept}
    if cut is not None:
        rows = {"this model, with memory": kept, "this model, memory emptied before each chunk": cut}
    lines = [(name, f"{h.bits_per_token:.3f}", f"{h.accuracy:.3f}") for name, h in rows.items()]
    if not measured.is_text:
        symbols = config.data.recall_symbols
        lines.append(("guessing", f"{math.log2(symbols):.3f}", f"{1 / symbols:.3f}"))
        return _table(("", "bits per token", "accuracy"), lines)
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
    return _table(("", "bits per byte", "bits per token", "accuracy"), lines) + "\n\n" + notes


def _training(out: Path, metrics: Mapping[str, list[dict]], measured: Measured) -> str:
    if not metrics["train"]:
        return ""
    if measured.is_text:
        quantity, train_value, heldout_name = "bits per token", lambda r: r["loss"] / math.log(2), "bits_per_token"
    else:
        quantity, train_value, heldout_name = "accuracy", lambda r: r["accuracy"], "accuracy"
    train = [(record["step"], train_value(record)) for record in metrics["train"]]
    heldout = [(record["step"], record[heldout_name]) for record in metrics["heldout"]]
    plots.training(out / "training.png", train, heldout, quantity)
    text = f"{quantity.capitalize()} by optimiser step, on training batches and held out."
    return _section("Training", "training.png", text)


def _by_offset(out: Path, measured: Measured, config: Config) -> str:
    """Loss by position in the document."""
    if not measured.is_text:
        return ""
    model, kept, cut = config.model, measured.kept, measured.cut
    edges, kept_bits, counts = kept.by_offset()
    drawn = (counts >= MIN_TOKENS) & (edges[:-1] > 0)  # a log axis has no place for 0
    if not drawn.any():
        return ""
    marks = {"one chunk": model.chunk_len}
    if model.has_memory:
        marks["queue is full"] = model.chunk_len * model.memory_slots // model.memory_writes
    plots.loss_by_place(
        out / "document.png",
        "Loss by position in the document",
        "position in the document (tokens)",
        np.sqrt(edges[:-1] * (edges[1:] - 1.0))[drawn],
        kept_bits[drawn],
        None if cut is None else cut.by_offset()[1][drawn],
        _gains(measured, offset_bins(kept.offsets), np.flatnonzero(drawn)),
        marks=marks,
        log=True,
    )
    text = "Bits per token fall along a document if the model uses what it has read."
    if cut is not None:
        text += " In its first chunk a document has no memory yet. Bars: two standard errors."
    return _section("By position in the document", "document.png", text)


def _by_position(out: Path, measured: Measured) -> str:
    """Loss by position in the chunk."""
    if not measured.is_text:
        return ""
    kept, cut = measured.kept, measured.cut
    group = -(-kept.chunk_len // CHUNK_BINS)
    kept_bits = kept.by_position(group)
    bins = np.arange(len(kept_bits))
    plots.loss_by_place(
        out / "chunk.png",
        "Loss by position in the chunk",
        "position in the chunk (tokens)",
        bins * group + (group - 1) / 2,
        kept_bits,
        None if cut is None else cut.by_position(group),
        _gains(measured, kept.positions // group, bins),
        marks={},
        log=False,
    )
    text = f"A token at the start of a chunk (the first {group} of {kept.chunk_len}) costs {kept_bits[0]:.3f} bits"
    if cut is None:
        text += f", the average token {kept.bits_per_token:.3f}."
    else:
        text += (
            f" with memory and {cut.by_position(group)[0]:.3f} without, the average token {kept.bits_per_token:.3f} "
            f"and {cut.bits_per_token:.3f}. Bars: two standard errors."
        )
    return _section("By position in the chunk", "chunk.png", text)


def _gains(measured: Measured, bins: np.ndarray, wanted: np.ndarray) -> list[Mean]:
    """What memory saves in each wanted bin, in bits per token."""
    if measured.cut is None:
        return []
    saved, units = measured.cut.bits - measured.kept.bits, measured.kept.units()[1]
    return [clustered_mean(saved[bins == bin], units[bins == bin]) for bin in wanted]


def _fusion(out: Path, measured: Measured, config: Config) -> str:
    streams, weights_LS = config.model.streams, measured.fusion_LS
    if len(streams) == 1:
        return ""
    plots.fusion(out / "fusion.png", streams, weights_LS)
    low, high = weights_LS.min(0), weights_LS.max(0)
    shares = ", ".join(f"{name} {low[i]:.0%} to {high[i]:.0%}" for i, name in enumerate(streams))
    text = f"Shares over the layers (layer 1 reads the tokens): {shares}. At the start: {1 / len(streams):.0%} each."
    return _section("Fusion weights", "fusion.png", text)


def _gates(out: Path, measured: Measured, config: Config) -> str:
    model, openness = config.model, measured.openness
    if openness is None:
        return ""
    if not openness.writes:
        return "## Gate openness\n\nNo held-out document is long enough for a slot to be written twice."
    start = 1 / (1 + math.exp(-model.gate_bias))
    plots.gates(out / "gates.png", openness, start)
    text = f"The update gate over {openness.writes:,} writes to slots that held something of the same document. "
    if model.gate == "evicted":
        turn = model.chunk_len * model.memory_slots // model.memory_writes
        kept = ", ".join(f"{1 - z:.0%}" for z in openness.mean_L)
        text += f"A slot's turn comes every {turn:,} tokens; on average this much of it then stays, by layer: {kept}."
    return _section("Gate openness", "gates.png", text)


def _sample(workdir: Path) -> str:
    """The last sample of the run."""
    file = workdir / "samples.txt"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    parts = re.split(r"^--- step (\d+)\n", text, flags=re.MULTILINE)
    if len(parts) < 3:
        return ""
    step, sample = parts[-2:]
    sample = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in sample).strip("\n")
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", sample))])
    return f"## Sample, step {int(step):,}\n\n{fence}text\n{sample}\n{fence}"


def _facts(
    config: Config, params: PyTree, step: int, data: Data, metrics: Mapping[str, list[dict]], measured: Measured
) -> str:
    device = jax.devices()[0]
    hardware = f"{jax.device_count()} x {device.device_kind}"
    facts = {
        "data": data.describe,
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}",
        "steps": f"{step:,} of {config.steps:,}",
    }
    if metrics["train"]:
        last = metrics["train"][-1]
        facts["tokens read"] = f"{last['tokens']:,}"
        speed = np.median([record["tokens_per_second"] for record in metrics["train"]])
        facts["training time"] = f"{last['seconds']:,.0f} s with evaluations; {speed:,.0f} tokens/s without them"
    facts["held-out tokens scored"] = f"{measured.kept.scored:,}"
    facts["this report's hardware"] = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else hardware
    facts["versions"] = f"jax {jax.__version__}, Python {platform.python_version()}"
    values = to_dict(config)
    groups = {name: value for name, value in values.items() if isinstance(value, dict)}
    groups["experiment"] = {name: value for name, value in values.items() if name not in groups}
    lines = [(name, ", ".join(f"{key}={value!r}" for key, value in group.items())) for name, group in groups.items()]
    return "## Run\n\n" + _table(("", ""), facts.items()) + "\n\n## Settings\n\n" + _table(("", ""), lines)


def _section(title: str, figure: str, text: str) -> str:
    return f"## {title}\n\n{text}\n\n![{title}]({figure})"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
