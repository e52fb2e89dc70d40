"""The parts of `recall` on many facts: how many are held and how long, and whether keys update."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rmat_jax.config import Config
from rmat_jax.drawing import count_name
from rmat_jax.evals import plots
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suite import Options, Subject, figure, table
from rmat_jax.evals.suites.recall import figures
from rmat_jax.evals.suites.recall.measure import FAR, Found, contexts
from rmat_jax.evals.suites.recall.needles import Cell

# the most numbers of pairs in the map, besides the trained one
ROWS = 5


def capacity_cells(config: Config, options: Options) -> list[Cell]:
    """Returns the cells that ask for many pairs, told in the first chunk of their contexts.

    At the trained length the numbers of pairs are all powers of two, and at every other length up
    to FAR some of them. At every length there are cells that tell the trained number of pairs once,
    and cells that tell it twice.
    """
    data, chunk_len = config.data, config.model.chunk_len
    fits = min(data.recall_symbols, chunk_len // 2)
    counts = [1 << n for n in range(fits.bit_length())]
    trained, found = data.recall_gap + 1, []
    most = min(options.max_tokens, FAR) // chunk_len
    for chunks in sorted({*contexts(most), trained}):
        here = counts if chunks == trained else mapped(counts)
        found += [Cell(chunks, 0.0, pairs) for pairs in sorted({*here, data.recall_pairs})]
        # The chunk before them tells the other values, so they are as old as those told once.
        found.append(Cell(chunks + 1, 1 / chunks, data.recall_pairs, updated=True))
    return found


def mapped(counts: Sequence[int]) -> list[int]:
    """Returns the numbers of pairs in the map: all of them, or every second, third, ... one."""
    step = -(-len(counts) // ROWS)
    # the largest number is always among them
    return list(counts[::-step][::-1])


def keys(subject: Subject, found: Found, chance: float, out: Path) -> tuple[str, dict[str, Any]]:
    """The part on accuracy by number of pairs at the trained length: markdown, numbers.

    Args:
        subject: the model.
        found: the answers to `capacity_cells`.
        chance: the accuracy of guessing.
        out: the folder of the figure.
    """
    config, chunks = subject.config, subject.config.data.recall_gap + 1
    counts = _counts(found, chunks)
    which = [found.where(chunks=chunks, facts=count, updated=False) for count in counts]
    kept, cut = (
        [found.accuracy(some, right) for some in which] for right in (found.kept, found.cut)
    )
    held = _held(kept, counts, chance)
    figures.keys(out / "keys.png", counts, kept, cut if config.model.memory else None, chance)
    tokens = chunks * config.model.chunk_len
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
            f"guessing, times the number of pairs. Contexts have {tokens} tokens, with the pairs "
            f"in their first chunk; training had {config.data.recall_pairs} pairs.",
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


def capacity_map(
    subject: Subject, found: Found, chance: float, out: Path
) -> tuple[str, dict[str, Any]]:
    """The part on accuracy by number of pairs and length, and on updates: markdown, numbers.

    Arguments as in `keys`.
    """
    model, pairs = subject.config.model, subject.config.data.recall_pairs
    lengths = sorted({cell.chunks for cell in found.cells if not cell.updated})
    tokens = [chunks * model.chunk_len for chunks in lengths]
    # the numbers of pairs that every length has
    counts = sorted(set.intersection(*(set(_counts(found, chunks)) for chunks in lengths)))
    once = [
        [found.where(chunks=chunks, facts=count, updated=False) for chunks in lengths]
        for count in counts
    ]
    twice = [found.where(chunks=chunks + 1, updated=True) for chunks in lengths]
    accuracy_PN = [[found.accuracy(cell, found.kept) for cell in row] for row in once]
    updated_N = [found.accuracy(cell, found.kept) for cell in twice]
    cut_N = [found.accuracy(np.any(column, 0), found.cut) for column in zip(*once, strict=True)]
    held_N = [max(_held(column, counts, chance)) for column in zip(*accuracy_PN, strict=True)]
    row, twice_name = counts.index(pairs), f"{_plural(pairs)},\ntold twice"
    change = _difference(
        found.accuracy(np.any(twice, 0), found.kept),
        found.accuracy(np.any(once[row], 0), found.kept),
    )
    below = {twice_name: [mean.value for mean in updated_N]}
    if model.memory:
        below[figures.EMPTIED_ROW] = [mean.value for mean in cut_N]
    plots.heat_map(
        out / "capacity.png",
        "Recall by context length and number of pairs",
        {
            f"{count}": [mean.value for mean in line]
            for count, line in zip(counts, accuracy_PN, strict=True)
        },
        [count_name(length) for length in tokens],
        "context (tokens)",
        ylabel="pairs told",
        below=below,
        chance=chance,
    )
    slots = f" The memory has {model.memory.slots} slots a layer." if model.memory else ""
    lines = [
        *(
            (_plural(n), *map("{:.3f}".format, of))
            for n, of in zip(counts, accuracy_PN, strict=True)
        ),
        (twice_name.replace("\n", " "), *(f"{mean:.3f}" for mean in updated_N)),
        ("memory emptied", *(f"{mean:.3f}" for mean in cut_N)),
        ("guessing", *[f"{chance:.3f}"] * len(tokens)),
        ("keys held", *(f"{held:.2f}" for held in held_N)),
    ]
    text = "\n\n".join(
        [
            "### Capacity and distance",
            f"**{held_N[-1]:.1f} keys are held over {tokens[-1]:,} tokens of noise**, "
            f"{held_N[0]:.1f} over {tokens[0]:,}: at each length the most of accuracy, corrected "
            f"for guessing, times the number of pairs.{slots} {updates(change, chance)}",
            figure("Accuracy by context length and number of pairs", "capacity.png"),
            table(("context, tokens", *(f"{length:,}" for length in tokens)), lines),
            "The pairs stand in the first chunk. *Told twice*: the first chunk tells the same keys "
            "with other values, the second one the values that count, which are as old as those "
            "told once. The emptied memory is that of all keys told once.",
        ]
    )
    return text, {
        "pairs": counts,
        "context_tokens": tokens,
        "accuracy": accuracy_PN,
        "emptied": cut_N,
        "held": held_N,
        "updated": {"pairs": pairs, "accuracy": updated_N, "difference": change},
    }


class Change(NamedTuple):
    """The accuracy on keys told twice and once, and the difference."""

    twice: Mean
    once: Mean
    difference: Mean


def updates(change: Change, chance: float) -> str:
    """Says whether the model finds the last value of a key again."""
    twice, once, difference = change
    if not once._replace(value=once.value - chance).positive:
        return (
            "Whether keys are updated cannot be told: those told once are not found again "
            "measurably more often than by guessing."
        )
    said = (
        f"of keys told twice the last value is found in {twice:.1%}, of keys told once in "
        f"{once:.1%}, all lengths together"
    )
    if difference.negative:
        return f"**Updates are lost in part**: {said}."
    if math.isnan(difference.error):
        return f"Whether keys are updated cannot be told from one document: {said}."
    return f"**Keys are updated**: {said}."


def _difference(twice: Mean, once: Mean) -> Change:
    # the documents differ, so the errors add up
    error = math.hypot(twice.error, once.error)
    gap = Mean(twice.value - once.value, error, min(twice.units, once.units))
    return Change(twice, once, gap)


def _counts(found: Found, chunks: int) -> list[int]:
    return sorted({c.facts for c in found.cells if c.chunks == chunks and not c.updated})


def _held(accuracy: Sequence[Mean], counts: Sequence[int], chance: float) -> list[float]:
    """The keys held at each number of pairs."""
    return [
        max(mean.value - chance, 0) / (1 - chance) * count
        for mean, count in zip(accuracy, counts, strict=True)
    ]


def _plural(count: int) -> str:
    return f"{count} pair{'s' * (count > 1)}"
