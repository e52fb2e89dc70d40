"""The section of `length`: bits per byte by reach, and the verdict."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.evals.conditions import verdict as judge
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.suite import Options, Section, Subject, figure, say, table
from rmat_jax.evals.suites.length import figures
from rmat_jax.evals.suites.length.windows import (
    SCORED_CHUNKS,
    Reaches,
    longest_reach,
    measure,
    units,
    windows_of,
)

# the most documents that are read
DOCUMENTS = 32


def check(subject: Subject, options: Options) -> None:
    """Raises UserError for a reach below one chunk, or if texts are too short or not there."""
    chunk_len = subject.config.model.chunk_len
    if options.max_tokens < chunk_len:
        raise UserError(
            f"max_tokens={options.max_tokens} must be at least a chunk, {chunk_len} tokens, "
            "for `length`"
        )
    _find(subject, options)


def length(subject: Subject, options: Options, out: Path) -> Section:
    """Measures bits per byte by reach. Returns the section; its figure is in `out`.

    The tokens of a chunk have reach r if their state began, fresh, between r and 2r - 1 chunks
    before it. Reach 0 is the chunk alone.

    Raises:
        UserError: as `check` does.
    """
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
    """Returns the documents to read and the longest reach, in chunks, that each of them exceeds."""
    chunk_len = subject.config.model.chunk_len
    limit = options.max_tokens + max(options.max_tokens // 8, SCORED_CHUNKS * chunk_len) + 1
    texts = read_texts(subject, options, limit)
    chunks = [(len(text) - 1) // chunk_len for text in texts]
    longest = longest_reach(chunks, options.max_tokens // chunk_len)
    enough = [text for text, count in zip(texts, chunks, strict=True) if count > longest]
    return enough[: min(DOCUMENTS, options.examples)], longest


def verdict(reaches: Sequence[int], bits_RN: np.ndarray, units_N: np.ndarray) -> str:
    """Says from the numbers alone up to which reach more context helps.

    Args:
        reaches: the reaches in tokens, ascending from 0.
        bits_RN: the bits of the same N tokens at each reach.
        units_N: the number of each token's unit, for the standard errors.
    """
    best = int(bits_RN.mean(1).argmin())
    saved = clustered_mean(bits_RN[0] - bits_RN[best], units_N)
    if np.isnan(saved.error):
        return "**Whether more context helps cannot be told** from a single stretch of text."
    if not saved.positive:
        text = "**More context does not help measurably**"
    else:
        losses = [clustered_mean(bits - bits_RN[best], units_N) for bits in bits_RN]
        enough = next(i for i, loss in enumerate(losses) if not loss.positive)
        text = (
            f"**More context helps up to {reaches[enough]:,} tokens**: it saves {saved:.4f} bits "
            f"per token at {reaches[best]:,}"
        )
        if enough < best:
            text += f", which is within two standard errors of what {reaches[enough]:,} saves"
    hurt = clustered_mean(bits_RN[-1] - bits_RN[best], units_N)
    if hurt.positive:
        text += (
            f"; at {reaches[-1]:,} tokens a token costs {hurt:.4f} more than at {reaches[best]:,}"
        )
    elif saved.positive and enough == len(reaches) - 1:
        text += "; that is as far as was measured"
    return text + "."


def of_memory(memory: Mean, all_of_it: Mean, units: str) -> str:
    """Says how much the memory contributes to what the longest reach saves.

    Args:
        memory: bits per token that the memory alone saves there.
        all_of_it: bits per token that memory, window and last token save together.
        units: what the errors are taken over, in the plural.
    """
    rest = "the rest is the window and the last token"
    text = judge(memory, "The memory", "bits per token at the longest reach", units)
    if memory.positive and all_of_it.positive:
        text += f" That is {memory.value / all_of_it.value:.0%} of what it saves; {rest}."
    return text


def describe(
    found: Reaches, chunk_len: int, size: int, source: str, subject: Subject, out: Path
) -> Section:
    """Makes the section of the measurements, and writes its figure to `out`.

    Args:
        found: the measurements.
        chunk_len: the model's chunk length, in tokens.
        size: the bytes that the scored tokens stand for.
        source: the name of the texts.
        subject: the model.
        out: the folder of the figure.
    """
    reaches = [chunks * chunk_len for chunks in found.chunks]
    name, units_N = units(found)
    per_byte = found.bits_RN.sum(1) / size
    gains = [clustered_mean(found.bits_RN[0] - bits, units_N) for bits in found.bits_RN]
    # what each doubling saves; the first reach has none
    steps = [Mean(np.nan, np.nan, 0)]
    steps += [
        clustered_mean(a - b, units_N)
        for a, b in zip(found.bits_RN[:-1], found.bits_RN[1:], strict=True)
    ]
    c = subject.config.model
    marks = {"queue turns over": c.memory.slots // c.memory.writes * chunk_len} if c.memory else {}
    emptied = memory = None
    judged = verdict(reaches, found.bits_RN, units_N)
    if found.emptied_N is not None:
        emptied = found.emptied_N.sum() / size
        memory = clustered_mean(found.emptied_N - found.bits_RN[-1], units_N)
        judged += f" {of_memory(memory, gains[-1], name)}"
    figures.reach(out / "length.png", reaches, per_byte, gains, marks, emptied)
    documents, scored = len(np.unique(found.documents_N)), found.bits_RN.shape[1]
    lines = [
        (f"{reach:,}", f"{bits:.4f}", f"{gain:+.4f}", f"{step:+.4f}")
        for reach, bits, gain, step in zip(reaches, per_byte, gains, steps, strict=True)
    ]
    lines[0] = (*lines[0][:2], "", "")
    if memory:
        saved = clustered_mean(found.bits_RN[0] - found.emptied_N, units_N)
        lines.append(("memory emptied", f"{emptied:.4f}", f"{saved:+.4f}", ""))
    text = "\n\n".join(
        [
            judged,
            f"The same {scored:,} tokens at each reach, of {documents} documents of {source}. "
            "A token has reach r if its state began, fresh, r tokens before its chunk "
            f"({chunk_len} tokens) or a little more: less than 2r. Reach 0 is the chunk alone. "
            "Memory, sliding window and last token begin together; in the last row the memory "
            "alone is emptied, before each chunk. All scored tokens stand at least "
            f"{reaches[-1]:,} tokens into their document; farther reaches would need longer "
            f"documents or a larger --max_tokens. Standard errors over {gains[0].units} {name}.",
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
        "bits_per_byte_memory_emptied": emptied,
        "saved_by_memory": memory and memory._asdict(),
        "saved_by_doubling": [step._asdict() for step in steps],
        "scored": scored,
        "num_bytes": size,
        "documents": documents,
    }
    headline = (
        f"By reach: {per_byte[0]:.3f} bits per byte of the chunk alone, {per_byte[-1]:.3f} at "
        f"{reaches[-1]:,} tokens. {judged}"
    )
    return Section("Loss by how far the state reaches back", headline, text, values)
