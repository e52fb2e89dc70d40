"""The section of `recall`: accuracy by context and depth, the keys held, and the verdict."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmat_jax.data.recall import DIGITS
from rmat_jax.drawing import count_name
from rmat_jax.errors import UserError
from rmat_jax.evals import plots
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.suites.recall import figures
from rmat_jax.evals.suites.recall.capacity import capacity_cells, capacity_map, keys
from rmat_jax.evals.suites.recall.measure import (
    FAR,
    SHORT,
    SHORTEST,
    Found,
    contexts,
    documents_of,
    measure,
    part,
)
from rmat_jax.evals.suites.recall.needles import Cell, Needles, Pairs, PassKeys

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def check(subject: Subject, options: Options) -> None:
    """Checks at once that `recall` can ask.

    Raises:
        UserError: contexts are below SHORTEST chunks, a chunk has no room for the question, or
            there are no texts.
    """
    shortest = SHORTEST * subject.config.model.chunk_len
    if options.max_tokens < shortest:
        raise UserError(
            f"max_tokens={options.max_tokens} must be at least {SHORTEST} chunks, {shortest}, "
            "for `recall`"
        )
    if not subject.config.data.synthetic:
        PassKeys(np.zeros(1, np.int32), subject.tokenizer, subject.config.model.chunk_len)
        if options.text is None:
            _ = subject.data


def recall(subject: Subject, options: Options, out: Path) -> Section:
    """Asks a synthetic model for key-value pairs and a model of text for pass keys.

    Returns the section; its figures are in `out`.

    Raises:
        UserError: as `check` does.
    """
    chunk_len, data = subject.config.model.chunk_len, subject.config.data
    capacity: list[Cell] = []
    if data.synthetic:
        needles, facts = Pairs(subject.config), data.recall_pairs
        capacity = capacity_cells(subject.config, options)
    else:
        texts = read_texts(subject, options, options.max_tokens)
        needles, facts = (
            PassKeys(np.concatenate([text[1:] for text in texts]), subject.tokenizer, chunk_len),
            1,
        )
    grid = [
        Cell(chunks, depth, facts)
        for chunks in contexts(options.max_tokens // chunk_len)
        for depth in (DEPTHS if chunks * chunk_len <= FAR else DEPTHS[:1])
    ]
    cells, more = (
        [cell for cell in of for _ in range(documents_of(cell, chunk_len, options.examples))]
        for of in (grid, capacity)
    )
    found = measure(subject, needles, cells + more, options.seed)
    of_grid, of_more = part(found, slice(len(cells))), part(found, slice(len(cells), None))
    return describe(subject, needles, of_grid, of_more, options, out)


def verdict(tokens: Sequence[int], kept: Sequence[Mean], gains: Sequence[Mean], thing: str) -> str:
    """Says from the numbers alone how far facts are found again.

    Args:
        tokens: the context lengths, ascending.
        kept: the accuracy at each length.
        gains: what memory adds to it, against an emptied memory.
        thing: the name of what is asked for.
    """
    measurable, harm = [gain.positive for gain in gains], ""
    worst = min(range(len(gains)), key=lambda at: gains[at].value)
    if gains[worst].negative:
        harm = (
            f" **The memory does harm at {tokens[worst]:,} tokens of context**: "
            f"{gains[worst]:+.3f} of accuracy against an emptied memory."
        )
    if not any(measurable):
        return (
            f"**No {thing} is found again measurably** more often than with an emptied memory, "
            f"at any of these lengths.{harm}"
        )
    # the number of lengths in a row, from the shortest
    lengths = next((i for i, mean in enumerate(kept) if mean.value < 0.9), len(kept))
    right = (
        f"Nine of ten answers are right up to {tokens[lengths - 1]:,} tokens of context"
        if lengths
        else "Already in the shortest context fewer than nine of ten answers are right"
    )
    last = np.flatnonzero(measurable)[-1]
    text = (
        f"**{right}.** The memory helps up to {tokens[last]:,}, where {kept[last].value:.1%} are "
        f"right: {gains[last]:+.3f} of accuracy against an emptied memory"
    )
    return (
        text
        + ("" if all(measurable[:last]) else ", though not measurably at every shorter length")
        + f".{harm}"
    )


def describe(
    subject: Subject, needles: Needles, grid: Found, more: Found, options: Options, out: Path
) -> Section:
    """Makes the section of the measurements, and writes its figures to `out`.

    Args:
        subject: the model.
        needles: the kind of documents.
        grid: the answers by context length and depth.
        more: the answers to `capacity_cells`; without any the section has no such part.
        options: the options of the suite.
        out: the folder of the figures.
    """
    chunk_len, model = needles.chunk_len, subject.config.model
    lengths = sorted({cell.chunks for cell in grid.cells})
    tokens = [chunks * chunk_len for chunks in lengths]
    cells = [[grid.where(chunks=chunks, depth=depth) for chunks in lengths] for depth in DEPTHS]
    accuracy_DN = [[grid.accuracy(cell, grid.kept) for cell in row] for row in cells]
    columns = [grid.where(chunks=chunks) for chunks in lengths]
    kept, cut = (
        [grid.accuracy(column, right) for column in columns] for right in (grid.kept, grid.cut)
    )
    gains = [grid.gain(column) for column in columns]
    chance = 1 / needles.choices
    plots.heat_map(
        out / "recall.png",
        f"Recall of a {needles.thing} by context length and depth",
        {
            f"{depth:.0%}": [mean.value for mean in row]
            for depth, row in zip(DEPTHS, accuracy_DN, strict=True)
        },
        [count_name(length) for length in tokens],
        "context (tokens)",
        ylabel="depth of the fact in the context",
        below={figures.EMPTIED_ROW: [mean.value for mean in cut]} if model.memory else {},
        chance=chance,
    )
    values = {
        "context_tokens": tokens,
        "depths": DEPTHS,
        "chance": chance,
        "documents": [[int(cell.sum()) for cell in row] for row in cells],
        "accuracy": accuracy_DN,
        "by_context": {"with_memory": kept, "emptied_before_question": cut, "gain": gains},
    }
    judged = (
        verdict(tokens, kept, gains, needles.thing) if model.memory else "This model has no memory."
    )
    exact = [grid.exact(column, grid.kept) for column in columns]
    bits = [float(grid.kept_bits[column].mean()) for column in columns]
    saved = [grid.saved(column) for column in columns]
    values["by_context"] |= {"all_right": exact, "bits": bits, "bits_saved_by_memory": saved}
    asked = int(grid.asked[0])
    guessed = asked * np.log2(needles.choices)
    lines = [
        (
            f"{length:,}",
            f"{a:.3f}",
            f"{b:.3f}",
            f"{every:.3f}",
            f"{cost:.2f}",
            f"{gain:+.2f}",
            int(column.sum()),
        )
        for length, a, b, every, cost, gain, column in zip(
            tokens, kept, cut, exact, bits, saved, columns, strict=True
        )
    ]
    lines.append(
        (
            "guessing",
            f"{chance:.3f}",
            f"{chance:.3f}",
            f"{chance**asked:.3f}",
            f"{guessed:.2f}",
            "",
            "",
        )
    )
    names = (
        "context, tokens",
        "accuracy",
        "memory emptied",
        f"all {asked} right",
        "bits of all",
        "of these memory saves",
    )
    head = (*names, "documents")
    parts = [
        judged,
        _what(needles, options, subject),
        figure("Accuracy by context length and depth", "recall.png"),
        table(head, lines),
    ]
    headline = (
        f"Recall of a {needles.thing}: accuracy {kept[0].value:.2f} at {tokens[0]:,} tokens of "
        f"context, {kept[-1].value:.2f} at {tokens[-1]:,} (guessing {chance:.2f}). {judged}"
    )
    if more.cells:
        for name, of in (("keys", keys), ("capacity", capacity_map)):
            text, values[name] = of(subject, more, chance, out)
            parts.append(text)
    return Section("Recall by context length and depth", headline, "\n\n".join(parts), values)


def _what(needles: Needles, options: Options, subject: Subject) -> str:
    data = subject.config.data
    if data.synthetic:
        trained = "depth 0" if data.recall_place == "first" else "any depth"
        text = (
            f"A chunk of {data.recall_pairs} key-value pairs among noise, more noise before it "
            "(depth) and after it, and a chunk that asks for all values. Training had contexts of "
            f"{(data.recall_gap + 1) * needles.chunk_len} tokens at {trained}."
        )
    else:
        text = (
            f'A sentence with a random number of {DIGITS} digits ("The pass key is ...") stands '
            f"somewhere in the context, text of {source_name(options)}; the last chunk begins that "
            "sentence once more. Accuracy is that of the most likely token for each digit, given "
            "the digits before it."
        )
    return (
        f"{text} Depth 0 % is the beginning of the context, 100 % its end. *Memory emptied*: just "
        "before the chunk that asks. Errors are taken over documents. Contexts beyond "
        f"{SHORT:,} tokens have fewer documents, so that cells cost the same. Beyond {FAR:,} "
        "tokens the fact opens the context, and no other depth is asked for."
    )
