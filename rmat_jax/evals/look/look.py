"""Shows what a trained model does with its memory while it reads one text.

The result is numbers, figures, and the text itself in colours.
"""

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from rmat_jax.config import RMATConfig
from rmat_jax.data.sources import read_blocks
from rmat_jax.errors import UserError
from rmat_jax.evals.look import plots
from rmat_jax.evals.look.count import Counts, ratio
from rmat_jax.evals.look.read import begin, look, mark_ages, passage_chunks, windows
from rmat_jax.evals.look.text import DISTANCES, TextGauge, page
from rmat_jax.evals.plots import fusion
from rmat_jax.evals.report import plain
from rmat_jax.evals.suite import Subject, figure, load_subject, say, table
from rmat_jax.evals.suites.position.gauges import fusion_weights
from rmat_jax.files import make_folder, replacing, write_whole
from rmat_jax.progress import Progress

# bytes of the text that are held at a time
BLOCK = 1 << 16


def inspect(
    workdir: str | Path, text: str | Path, out: str | Path, step: int | str | None = None
) -> Path:
    """Reads a text of any length at constant memory and writes what the model did.

    Args:
        workdir: the folder of a training run.
        text: a file, read as one document.
        out: the folder for inspect.md, its figures, inspect.json and, with a memory, text.html. It
            is made if it is not there.
        step: the checkpoint's step; None: the newest; "best": that with the lowest held-out loss.

    Returns:
        The path of inspect.md.

    Raises:
        UserError: there is no checkpoint or no such step, the model is one of synthetic data, the
            text cannot be read or is empty, or the folder cannot be made.
    """
    workdir, text, out = Path(workdir), Path(text), Path(out)
    try:
        size = text.stat().st_size if text.is_file() else -1
        # opened once, since a pipe cannot be read twice
        opened = text.open("rb")
    except OSError as error:
        raise UserError(
            f"--text={text} cannot be read: {error.strerror}; give a text file"
        ) from error
    with opened:
        return _inspect(workdir, text, opened, size, out, step)


def _inspect(
    workdir: Path, text: Path, opened: BinaryIO, size: int, out: Path, step: int | str | None
) -> Path:
    """Does as `inspect`, with a text that is open."""
    if not opened.peek(1):
        raise UserError(f"--text={text} is empty; give a text file")
    subject = load_subject(workdir, step)
    tokenizer, model = subject.tokenizer, subject.config.model
    make_folder(out)

    counts, gauge = Counts(model), TextGauge(tokenizer)
    say(f"reading {text.name}" + (f", {size:,} bytes" if size >= 0 else ""))
    bytes_read = _read(subject, opened, size, counts, gauge)
    say("figures")
    fusion_LS = fusion_weights(subject.config, subject.params)
    values = _values(model, counts, gauge, fusion_LS, bytes_read)
    parts = _sections(out, model, counts, gauge, fusion_LS, values)
    if model.memory:
        lead = f"{text.name}, read by {workdir.resolve().name} at step {subject.step:,}."
        with replacing(out / "text.html") as file, file.open("w", encoding="utf-8") as written:
            written.writelines(page("What memory changed", lead, gauge))
    asked = [] if step is None else [f"--step={step}"]
    again = shlex.join([f"--workdir={workdir}", *asked, f"--text={text}", f"--out={out}"])
    head = [
        f"# {workdir.resolve().name}, step {subject.step:,}, reading {text.name}",
        _headline(model, values),
        "Layer 1 reads the tokens. Every number is in `inspect.json`."
        + f" Figures with a line for each layer show {plots.MOST_LINES} of {model.num_layers}."
        * (model.num_layers > plots.MOST_LINES),
    ]
    parts += ["## Again", f"```sh\npython -m rmat_jax inspect {again}\n```"]
    report = out / "inspect.md"
    write_whole(report, "\n\n".join([*head, *parts]) + "\n")
    about = {"workdir": str(workdir), "step": subject.step, "text": str(text)}
    numbers = json.dumps(plain(about | values), indent=1, allow_nan=False)
    write_whole(out / "inspect.json", numbers + "\n")
    return report


def _read(subject: Subject, text: BinaryIO, size: int, counts: Counts, gauge: TextGauge) -> int:
    """Counts over the whole text, and returns its number of bytes."""
    model, bytes_read = subject.config.model, 0
    looking, progress = begin(model), Progress()

    def pieces() -> Iterator[np.ndarray]:
        nonlocal bytes_read
        for block in read_blocks(text, BLOCK):
            yield subject.tokenizer.encode(block, first=not bytes_read)
            bytes_read += len(block)

    for tokens_NC, targets_NC in windows(model, pieces(), subject.tokenizer.end):
        marked_NR = mark_ages(model, counts.chunks, len(tokens_NC)) == 0
        looking, seen = look(model, subject.params, looking, tokens_NC, targets_NC, marked_NR)
        seen = jax.device_get(seen)
        if not np.isfinite(seen.loss_C).all():
            raise UserError(
                "the model's probabilities are not finite: its weights hold NaN or infinity; "
                "use another step"
            )
        counts.add(seen, targets_NC)
        if model.memory:
            kept, cut = (x.ravel() / math.log(2) for x in (seen.loss_C, seen.cut_C))
            gauge.add(targets_NC.ravel(), kept, cut, passage_chunks(model) * model.chunk_len)
        if progress.due():
            say(f"read {progress.speed(counts.tokens)}")
    return bytes_read


def _values(
    model: RMATConfig, counts: Counts, gauge: TextGauge, fusion_LS: np.ndarray, bytes_read: int
) -> dict[str, Any]:
    """Computes every number of the report."""
    values: dict[str, Any] = {
        "tokens": counts.tokens,
        "bytes": bytes_read,
        "chunks": counts.chunks,
        "bits_per_byte": counts.bits[0] / bytes_read,
        "fusion": {branch: fusion_LS[:, place] for place, branch in enumerate(model.fused)},
        "by_time": {
            name: x for name, x in counts.means_by_time().items() if name in ("tokens", "kept")
        },
    }
    if not model.memory:
        return values
    count = np.maximum(gauge.count_X, 1)
    mass_LA, even_LA = counts.read_by_age_LA()
    mass_LX, even_LX = counts.read_by_content_LX()
    retention_LA = counts.retention_LA()
    values |= {
        "bits_per_byte_emptied": counts.bits[1] / bytes_read,
        "by_time": counts.means_by_time(),
        "reads": counts.reads,
        "memory_share": ratio(counts.share_LC.sum(1), counts.share_reads_C.sum()),
        "memory_share_by_head": ratio(counts.share_LH, counts.reads),
        "memory_share_by_place": ratio(counts.share_LC, counts.share_reads_C),
        "slots_by_head": ratio(counts.slots_LH, counts.reads),
        "saved_by_place": ratio(
            counts.place_bits_2C[1] - counts.place_bits_2C[0], counts.place_tokens_C
        ),
        "read_by_age": mass_LA,
        "read_by_age_if_alike": even_LA[0],
        "read_by_content_age": mass_LX,
        "read_by_content_age_if_alike": even_LX,
        "retention": retention_LA,
        "half_life_chunks": [_half_life(x_A) for x_A in retention_LA],
        "saved_by_word_distance": {
            "tokens": 2 ** np.arange(DISTANCES),
            "words": gauge.count_X[:-1],
            "bits": ratio(gauge.saved_X, gauge.count_X)[:-1],
            "error": np.sqrt(
                np.maximum(gauge.squares_X / count - (gauge.saved_X / count) ** 2, 0) / count
            )[:-1],
            "first_words": gauge.count_X[-1],
            "first_bits": ratio(gauge.saved_X, gauge.count_X)[-1],
        },
        "words": [word._asdict() for word in gauge.words],
    }
    if model.memory.gated:
        values |= {
            "writes_over": counts.writes,
            "openness": ratio(counts.open_LD.mean(1), counts.writes),
            "openness_by_channel": ratio(counts.open_LD, counts.writes),
            "openness_by_place": ratio(counts.open_LK, counts.writes_K),
        }
    return values


def _half_life(left_A: np.ndarray) -> float:
    """The chunks until less than half is left; NaN: the text was too short to see it."""
    below = np.flatnonzero(left_A < 0.5)
    return float(below[0]) if len(below) else math.nan


def _headline(model: RMATConfig, values: dict[str, Any]) -> str:
    kept = f"**{values['bits_per_byte']:.3f} bits per byte**"
    size = f"{values['bytes']:,} bytes, {values['tokens']:,} tokens, {values['chunks']:,} chunks"
    if not model.memory:
        return (
            f"{kept} over {size}. This model has no memory, so there are no gates, slots and reads "
            "to show."
        )
    cut = values["bits_per_byte_emptied"]
    return f"{kept} with memory, {cut:.3f} with the memory emptied before each chunk, over {size}."


def _sections(
    out: Path,
    model: RMATConfig,
    counts: Counts,
    gauge: TextGauge,
    fusion_LS: np.ndarray,
    values: dict[str, Any],
) -> list[str]:
    """Draws every figure that has data, and describes each in two sentences."""
    parts: list[str] = []

    def section(title: str, file: str, text: str) -> None:
        parts.extend([f"## {title}", text, figure(title, file)])

    plots.along(out / "along.png", counts, bool(model.memory))
    text = (
        "Bits per token from the beginning of the text to its end; each point is the mean of a "
        "stretch."
    )
    if model.memory:
        saved = (counts.bits[1] - counts.bits[0]) / counts.tokens
        text += f" The lower panel shows what memory saves, on average {saved:+.4f}."
    section("Along the text", "along.png", text)
    if len(model.fused) > 1:
        fusion(out / "fusion.png", model.fused, fusion_LS)
        shares = ", ".join(
            f"{s} {x.min():.0%} to {x.max():.0%}" for s, x in values["fusion"].items()
        )
        section(
            "Fusion weights",
            "fusion.png",
            f"The learned weights by layer: {shares}. They multiply what each branch returns, "
            "whatever its size. The next figure shows how much of the output comes from memory.",
        )
    if not model.memory:
        return parts
    if not counts.reads:
        return [
            *parts,
            f"The text ends within its first chunk of {model.chunk_len} tokens: "
            "no memory was read.",
        ]

    plots.heads(out / "heads.png", model, counts)
    shares, slots = values["memory_share_by_head"], values["slots_by_head"]
    section(
        "Heads",
        "heads.png",
        "Left: the memory's share of a head's output, |memory| / (|memory| + |chunk|), "
        f"{shares.min():.0%} to {shares.max():.0%}. Right: the number of slots, out of "
        f"{model.memory.slots}, over which a head spreads its attention (the exponential of the "
        f"entropy), {slots.min():.1f} to {slots.max():.1f}.",
    )
    plots.ages(out / "ages.png", counts)
    newest, oldest = values["read_by_age"][:, 0], values["read_by_age"][:, -1]
    section(
        "Which slots are read",
        "ages.png",
        "Above: attention by the chunks since a slot was written; the newest get "
        f"{_list(newest)} and the oldest {_list(oldest)} by layer (dotted: if all were read "
        "alike). Below: by the mean age of what the slot holds, which is older where the gate "
        "keeps.",
    )
    _gates(out, model, counts, values, section)
    plots.retention(out / "retention.png", model, values["retention"])
    half = ", ".join(
        "not within sight" if math.isnan(x) else f"{x:.0f} chunks"
        for x in values["half_life_chunks"]
    )
    text = (
        "After its write an entry passes gates. What is left of a channel is the product of "
        "(1 - z) over all of them; the figure shows the mean over channels. By layer, half of it "
        f"is gone after: {half}."
    )
    if not model.memory.gated:
        text = (
            "Without a gate an entry stays whole until it leaves the queue, and is gone afterwards."
        )
    section("What stays", "retention.png", text)
    plots.places(out / "places.png", model, counts)
    saved = values["saved_by_place"]
    section(
        "Where in the chunk",
        "places.png",
        "Above: the memory's share of attention's output, by place in the chunk. Below: what "
        f"memory saves there, {saved[0]:+.3f} bits at the chunk's first token and "
        f"{np.nanmean(saved[len(saved) // 2 :]):+.3f} in its second half.",
    )
    if plots.words(out / "words.png", model, gauge):
        by = values["saved_by_word_distance"]
        section(
            "Words that were read before",
            "words.png",
            "What memory saves on a word of four letters or more, by the tokens since its last "
            "occurrence. On words that are new to the text, where there is nothing to recall, it "
            f"saves {by['first_bits']:+.3f} bits. Bars are two standard errors over words. "
            f"Distances with fewer than {plots.MIN_WORDS} words are left out.",
        )
    parts += _text(out, gauge)
    return parts


def _gates(out: Path, model: RMATConfig, counts: Counts, values: dict[str, Any], section) -> None:
    if not model.memory.gated or not counts.writes:
        return
    plots.gates(out / "gates.png", model, counts)
    openness = ", ".join(f"{z:.2g}" for z in values["openness"])
    section(
        "Gates",
        "gates.png",
        f"Mean update gate over {counts.writes:,} writes to slots that held something, by layer: "
        f"{openness}. 0 keeps what the slot holds, 1 replaces it. Above: along the text. Below: by "
        "place in the chunk. If the chunk's first tokens stand out, the gate lacks the tokens "
        "before them.",
    )
    # this gate has one number a slot, and no channels
    if model.memory.gate == "slot":
        return
    by_channel = values["openness_by_channel"]
    plots.channels(out / "channels.png", by_channel)
    section(
        "Gates by channel",
        "channels.png",
        "The channels of each layer in the order of their mean gate. Channels that keep nine "
        f"tenths or more at a write: {_list((by_channel <= 0.1).mean(1))} by layer; channels that "
        f"replace nine tenths or more: {_list((by_channel >= 0.9).mean(1))}.",
    )


def _text(out: Path, gauge: TextGauge) -> list[str]:
    parts = [
        "## The text itself",
        "[text.html](text.html) shows passages with every character's bits.",
    ]
    if gauge.best:
        best = gauge.best[0]
        plots.passage(out / "passage.png", list(gauge.readouts(best)), best.start)
        parts.append(figure("Where memory helped most", "passage.png"))
    if gauge.words:
        lines = [
            (
                f"{word.start:,}",
                _quoted(word.before, word.text),
                f"{word.kept + word.saved:.1f}",
                f"{word.kept:.1f}",
            )
            for word in gauge.words
        ]
        parts += [
            "Words on which memory saved most:",
            table(("token", "", "bits without", "with memory"), lines),
        ]
    return parts


def _quoted(before: str, word: str) -> str:
    clean = "".join(c if c.isprintable() else " " for c in before + "\0" + word)
    return "`` " + clean[-60:].replace("`", "'") + " ``"


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{value:.0%}" for value in values)
