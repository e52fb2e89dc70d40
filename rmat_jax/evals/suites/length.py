"""Suite `length`: what a token costs when the state may reach back only so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.errors import UserError
from rmat_jax.evals import plots
from rmat_jax.evals.heldout import MIN_DOCUMENTS, Mean, clustered_mean, evaluate_heldout
from rmat_jax.evals.inputs.packing import Document, Packed
from rmat_jax.evals.inputs.texts import read_texts, source_name
from rmat_jax.evals.suite import Options, Section, Subject, figure, say, table

# read at most
DOCUMENTS = 32
# of a document, or an eighth of the longest reach where that is more
SCORED_CHUNKS = 16
# that stand for documents where these are too few for a standard error
STRETCHES = 16


class Window(NamedTuple):
    """Part of a document, in chunks: read from `start` on with a fresh state, scored in [first,
    end).
    """

    document: int
    reach: int
    start: int
    first: int
    end: int


class Reaches(NamedTuple):
    """The same tokens at each reach, in the order of documents and places."""

    # 0, 1, 2, 4, ...
    chunks: list[int]
    bits_RN: np.ndarray
    documents_N: np.ndarray
    # in the document, of the token that predicts
    places_N: np.ndarray


def check(subject: Subject, options: Options) -> None:
    """Raises UserError for a reach below one chunk, or texts that are too short or not there."""
    chunk_len = subject.config.model.chunk_len
    if options.max_tokens < chunk_len:
        raise UserError(
            f"max_tokens={options.max_tokens} must be at least a chunk, {chunk_len} tokens, for `length`"
        )
    _find(subject, options)


def length(subject: Subject, options: Options, out: Path) -> Section:
    """Bits per byte by reach. The tokens of a chunk have reach r if their state began, fresh, r
    chunks before it or up to 2r - 1 chunks before it; reach 0 is the chunk alone."""
    chunk_len = subject.config.model.chunk_len
    texts, longest = _find(subject, options)
    say(f"{len(texts)} documents, reaches up to {longest * chunk_len:,} tokens")
    found = measure(
        subject, texts, windows_of([(len(text) - 1) // chunk_len for text in texts], longest)
    )
    size = sum(
        len(subject.tokenizer.decode(text[found.places_N[found.documents_N == i] + 1]))
        for i, text in enumerate(texts)
    )
    return describe(found, chunk_len, size, source_name(options), subject, out)


def _find(subject: Subject, options: Options) -> tuple[list[np.ndarray], int]:
    """The documents to read, and the longest reach, in chunks, that each of them exceeds."""
    chunk_len = subject.config.model.chunk_len
    limit = options.max_tokens + max(options.max_tokens // 8, SCORED_CHUNKS * chunk_len) + 1
    texts = read_texts(subject, options, limit)
    chunks = [(len(text) - 1) // chunk_len for text in texts]
    longest = longest_reach(chunks, options.max_tokens // chunk_len)
    enough = [text for text, count in zip(texts, chunks, strict=True) if count > longest]
    return enough[: min(DOCUMENTS, options.examples)], longest


def longest_reach(chunks: Sequence[int], most: int) -> int:
    """The largest power of two, at most `most`, that enough documents exceed by a chunk: ten, or
    half of them.

    Args:
        chunks: whole chunks of each document.
        most: chunks.

    Raises:
        UserError: not even 1.
    """
    needed = min(MIN_DOCUMENTS, -(-len(chunks) // 2))
    room = min(sorted(chunks, reverse=True)[needed - 1] - 1, most)
    if room < 1:
        raise UserError(
            f"the texts are too short for `length`: {needed} of {len(chunks)} documents must be longer than two chunks; "
            "give longer ones with --text=PATH"
        )
    return 1 << (room.bit_length() - 1)


def windows_of(chunks: Sequence[int], longest: int) -> list[Window]:
    """All windows, so that each reach scores the same chunks of each document: from `longest` on,
    `SCORED_CHUNKS` of them or an eighth of `longest`, and no more than `longest`: that reach then
    begins with the document."""
    windows = []
    for document, count in enumerate(chunks):
        scored = min(count - longest, longest, max(SCORED_CHUNKS, longest // 8))
        end = longest + scored
        windows += [Window(document, 0, n, n, n + 1) for n in range(longest, end)]
        for reach in powers(longest):
            for first in range(longest, end, reach):
                windows.append(
                    Window(document, reach, first - reach, first, min(first + reach, end))
                )
    return windows


def powers(longest: int) -> list[int]:
    """1, 2, 4, ..., longest."""
    return [1 << n for n in range(longest.bit_length())]


def measure(subject: Subject, texts: Sequence[np.ndarray], windows: Sequence[Window]) -> Reaches:
    """Reads all windows, many side by side."""
    chunk_len = subject.config.model.chunk_len

    def make(index: int) -> Document:
        w = windows[index]
        text = texts[w.document][w.start * chunk_len : w.end * chunk_len + 1]
        targets = text[1:].copy()
        targets[: (w.first - w.start) * chunk_len] = IGNORE
        return {"tokens": text[:-1], "targets": targets}

    packed = Packed(
        [(w.end - w.start) * chunk_len for w in windows], make, chunk_len, forgets=False
    )
    say(f"{packed.tokens:,} tokens")
    heldout = evaluate_heldout(subject.config, subject.params, packed, None)
    of = np.array(windows)[packed.owners(heldout)]
    documents, places = of[:, 0], of[:, 2] * chunk_len + heldout.offsets
    # by reach, document, place
    order = np.lexsort((places, documents, of[:, 1]))
    chunks = sorted({w.reach for w in windows})
    bits_RN, documents_RN, places_RN = (
        x[order].reshape(len(chunks), -1) for x in (heldout.bits, documents, places)
    )
    return Reaches(chunks, bits_RN, documents_RN[0], places_RN[0])


def units(found: Reaches) -> tuple[str, np.ndarray]:
    """What may be taken as independent: documents, or stretches of them where they are few."""
    count = len(np.unique(found.documents_N))
    if count >= MIN_DOCUMENTS:
        return "documents", found.documents_N
    # tokens stand document by document
    order = np.arange(len(found.documents_N))
    stretch = order * STRETCHES // len(order)
    return "stretches of documents", found.documents_N * STRETCHES + stretch


def verdict(reaches: Sequence[int], bits_RN: np.ndarray, units_N: np.ndarray) -> str:
    """Up to which reach more context helps, from the numbers alone.

    Args:
        reaches: in tokens, ascending, the first 0.
        bits_RN: of the same tokens at each.
        units_N: for the standard errors.
    """
    best = int(bits_RN.mean(1).argmin())
    saved = clustered_mean(bits_RN[0] - bits_RN[best], units_N)
    if np.isnan(saved.error):
        return "**Whether more context helps cannot be told** from a single stretch of text."
    if not saved.value > 2 * saved.error:
        text = "**More context does not help measurably**"
    else:
        losses = [clustered_mean(bits - bits_RN[best], units_N) for bits in bits_RN]
        enough = next(i for i, loss in enumerate(losses) if not loss.value > 2 * loss.error)
        text = (
            f"**More context helps up to {reaches[enough]:,} tokens**: it saves {saved.value:.4f} ± {saved.error:.4f} bits "
            f"per token at {reaches[best]:,}"
        )
        if enough < best:
            text += f", of which what {reaches[enough]:,} leaves out is within two standard errors of nothing"
    hurt = clustered_mean(bits_RN[-1] - bits_RN[best], units_N)
    if hurt.value > 2 * hurt.error:
        text += f"; at {reaches[-1]:,} tokens a token costs {hurt.value:.4f} ± {hurt.error:.4f} more than at {reaches[best]:,}"
    elif saved.value > 2 * saved.error and enough == len(reaches) - 1:
        text += "; that is as far as was measured"
    return text + "."


def describe(
    found: Reaches, chunk_len: int, size: int, source: str, subject: Subject, out: Path
) -> Section:
    """The section and its figure."""
    reaches = [chunks * chunk_len for chunks in found.chunks]
    name, units_N = units(found)
    per_byte = found.bits_RN.sum(1) / size
    gains = [clustered_mean(found.bits_RN[0] - bits, units_N) for bits in found.bits_RN]
    steps = [Mean(np.nan, np.nan, 0)]
    steps += [
        clustered_mean(a - b, units_N)
        for a, b in zip(found.bits_RN[:-1], found.bits_RN[1:], strict=True)
        # each doubling
    ]
    c = subject.config.model
    marks = {"queue turns over": c.slots // c.writes * chunk_len} if c.has_memory else {}
    plots.reach(out / "length.png", reaches, per_byte, gains, marks)
    judged = verdict(reaches, found.bits_RN, units_N)
    documents, scored = len(np.unique(found.documents_N)), found.bits_RN.shape[1]
    lines = [
        (f"{reach:,}", f"{bits:.4f}", _pm(gain), _pm(step))
        for reach, bits, gain, step in zip(reaches, per_byte, gains, steps, strict=True)
    ]
    lines[0] = (*lines[0][:2], "", "")
    text = "\n\n".join(
        [
            judged,
            f"The same {scored:,} tokens at each reach, of {documents} documents of {source}. A token has reach r if its "
            f"state began, fresh, r tokens before its chunk ({chunk_len} tokens) or a little more: less than 2r. Reach 0 "
            f"is the chunk alone. Memory and sliding window begin together. All scored tokens stand at least "
            f"{reaches[-1]:,} tokens into their document; farther reaches would need longer documents or a larger "
            f"--max_tokens. Standard errors over {gains[0].units} {name}.",
            table(
                ("reach, tokens", "bits per byte", "saved, bits per token", "by this doubling"),
                lines,
            ),
            figure("Loss by reach", "length.png"),
        ]
    )
    values = {
        "reach_tokens": reaches,
        "bits_per_byte": per_byte,
        "bits_per_token": found.bits_RN.mean(1),
        "saved": [gain._asdict() for gain in gains],
        "saved_by_doubling": [step._asdict() for step in steps],
        "scored": scored,
        "num_bytes": size,
        "documents": documents,
    }
    line = f"By reach: {per_byte[0]:.3f} bits per byte of the chunk alone, {per_byte[-1]:.3f} at {reaches[-1]:,} tokens. "
    return Section("Loss by how far the state reaches back", line + judged, text, values)


def _pm(mean: Mean) -> str:
    return f"{mean.value:+.4f} ± {mean.error:.4f}"
