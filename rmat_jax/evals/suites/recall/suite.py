"""The section of `recall`: accuracy by context and depth, the keys held, and the verdict."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmat_jax.data.recall import DIGITS
from rmat_jax.errors import UserError
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.suites.recall import figures
from rmat_jax.evals.suites.recall.measure import (
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
    """Tells at once what `recall` cannot ask.

    Raises:
        UserError: contexts below SHORTEST chunks, a chunk without room for the question, no texts.
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
    pairs_held: list[int] = []
    if data.synthetic:
        needles, facts = Pairs(subject.config), data.recall_pairs
        most = min(data.recall_symbols, chunk_len // 2)
        pairs_held = [1 << n for n in range(most.bit_length())]
    else:
        texts = read_texts(subject, options, options.max_tokens)
        needles, facts = (
            PassKeys(np.concatenate([text[1:] for text in texts]), subject.tokenizer, chunk_len),
            1,
        )
    grid = [
        Cell(chunks, depth, facts)
        for chunks in contexts(options.max_tokens // chunk_len)
        for depth in DEPTHS
    ]
    held = [Cell(data.recall_gap + 1, 0.0, pairs) for pairs in pairs_held]
    cells = [cell for cell in grid for _ in range(documents_of(cell, chunk_len, options.examples))]
    keys = [cell for cell in held for _ in range(options.examples)]
    found = measure(subject, needles, cells + keys, options.seed)
    of_grid, of_keys = part(found, slice(len(cells))), part(found, slice(len(cells), None))
    return describe(subject, needles, of_grid, of_keys, options, out)


def verdict(tokens: Sequence[int], kept: Sequence[Mean], gains: Sequence[Mean], thing: str) -> str:
    """Says from the numbers alone how far facts are found again.

    Args:
        tokens: the context lengths, ascending.
        kept: accuracy at each.
        gains: what memory adds to it, against an emptied memory.
        thing: that is asked for.
    """
    measurable, harm = [gain.positive for gain in gains], ""
    worst = min(range(len(gains)), key=lambda at: gains[at].value)
    if gains[worst].negative:
        harm = (
            f" **The memory does harm at {tokens[worst]:,} tokens of context**: "
            f"{gains[worst]:+.3f} of accuracy to an emptied memory."
        )
    if not any(measurable):
        return (
            f"**No {thing} is found again measurably** more often than with an emptied memory, "
            f"at any of these lengths.{harm}"
        )
    # in a row, from the shortest
    lengths = next((i for i, mean in enumerate(kept) if mean.value < 0.9), len(kept))
    right = (
        f"Nine of ten answers are right up to {tokens[lengths - 1]:,} tokens of context"
        if lengths
        else "Already in the shortest context fewer than nine of ten answers are right"
    )
    last = np.flatnonzero(measurable)[-1]
    text = (
        f"**{right}.** The memory helps up to {tokens[last]:,}, where {kept[last].value:.1%} are "
        f"right: {gains[last]:+.3f} of accuracy to an emptied memory"
    )
    return (
        text
        + ("" if all(measurable[:last]) else ", though not measurably at every shorter length")
        + f".{harm}"
    )


def describe(
    subject: Subject, needles: Needles, grid: Found, keys: Found, options: Options, out: Path
) -> Section:
    """Returns the section of what was measured, and writes its figures to `out`.

    Args:
        subject: the model.
        needles: the kind of documents.
        grid: answers by context length and depth.
        keys: answers by number of pairs; without any cell there is no such part.
        options: of the suite.
        out: folder of the figures.
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
    figures.heatmap(
        out / "recall.png",
        f"Recall of a {needles.thing} by context length and depth",
        tokens,
        DEPTHS,
        np.array([[mean.value for mean in row] for row in accuracy_DN]),
        np.array([mean.value for mean in cut]) if model.memory else None,
        chance,
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
    if keys.cells:
        text, values["keys"] = _keys(subject, needles, keys, chance, out)
        parts.append(text)
    return Section("Recall by context length and depth", headline, "\n\n".join(parts), values)


def _what(needles: Needles, options: Options, subject: Subject) -> str:
    data = subject.config.data
    if data.synthetic:
        trained = "depth 0" if data.recall_place == "first" else "any depth"
        text = (
            f"A chunk of {data.recall_pairs} key-value pairs among noise, more noise before it "
            "(depth) and after it, and a chunk that asks for all values; trained were contexts of "
            f"{(data.recall_gap + 1) * needles.chunk_len} tokens at {trained}."
        )
    else:
        text = (
            f'A sentence with a random number of {DIGITS} digits ("The pass key is ...") stands '
            f"somewhere in the context, text of {source_name(options)}; the last chunk begins that "
            "sentence once more. Accuracy is that of the likeliest token for each digit, the "
            "digits before it given."
        )
    return (
        f"{text} Depth 0 % is the beginning of the context, 100 % its end. *Memory emptied*: just "
        "before the chunk that asks. Errors are taken over documents. Contexts beyond "
        f"{SHORT:,} tokens have fewer documents, so that cells cost alike."
    )


def _keys(
    subject: Subject, needles: Needles, keys: Found, chance: float, out: Path
) -> tuple[str, dict]:
    """The part on accuracy by number of pairs: markdown, numbers."""
    counts = sorted({cell.facts for cell in keys.cells})
    which = [keys.where(facts=count) for count in counts]
    kept, cut = ([keys.accuracy(some, right) for some in which] for right in (keys.kept, keys.cut))
    held = [
        max(mean.value - chance, 0) / (1 - chance) * count
        for mean, count in zip(kept, counts, strict=True)
    ]
    figures.keys(
        out / "keys.png", counts, kept, cut if subject.config.model.memory else None, chance
    )
    tokens = keys.cells[0].chunks * needles.chunk_len
    lines = [
        (count, f"{a:.3f}", f"{b:.3f}", f"{number:.2f}")
        for count, a, b, number in zip(counts, kept, cut, held, strict=True)
    ]
    best = int(np.argmax(held))
    bound = "At least" if best == len(counts) - 1 else "At most"
    text = "\n\n".join(
        [
            "### Keys held",
            f"**{bound} {held[best]:.1f} keys are held**, when {counts[best]} are told"
            f"{', the most that fit' if bound == 'At least' else ''}: the accuracy, corrected for "
            f"guessing, times the number of pairs. Contexts of {tokens} tokens, the pairs in their "
            f"first chunk; trained were {subject.config.data.recall_pairs} pairs.",
            figure("Accuracy by number of pairs", "keys.png"),
            table(("pairs", "accuracy", "memory emptied", "keys held"), lines),
        ]
    )
    return text, {
        "pairs": counts,
        "accuracy": kept,
        "emptied": cut,
        "held": held,
        "context_tokens": tokens,
    }
