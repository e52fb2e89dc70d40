"""The section of `code`: what names and lines cost, by the distance to the definition."""

from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.drawing import count_name
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_TEXTS, verdict
from rmat_jax.evals.continuations import draw, head, lines
from rmat_jax.evals.inputs import source_name
from rmat_jax.evals.means import clustered_mean
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.suites.code.completions import Completed, measure
from rmat_jax.evals.suites.code.lines import find
from rmat_jax.train.heldout import offset_bins

# a group of fewer lines is not drawn
MIN_LINES = 10


def check(subject: Subject, options: Options) -> None:
    """Raises UserError where there is no text, or none with lines to ask for."""
    find(subject, options)


def code(subject: Subject, options: Options, out: Path) -> Section:
    """Measures lines that use a name for the first time since its definition.

    Returns the section; its figure is in `out`.

    Raises:
        UserError: there is no text, or none with such lines.
    """
    found = find(subject, options)
    done = measure(subject, found)
    distances, in_chunk = (
        np.array([x.distance for x in found]),
        np.array([x.in_chunk for x in found]),
    )
    bins = offset_bins(distances) - 1
    groups = {f"{count_name(2.0**bin)}": bins == bin for bin in np.unique(bins)}
    groups = {name: where for name, where in groups.items() if where.sum() >= MIN_LINES} or groups
    few = len(found) - sum(where.sum() for where in groups.values())
    left_out = f"{few} lines at distances with fewer than {MIN_LINES} are not among the groups."
    far = ~in_chunk
    by_distance = {name: done.names.at(where) for name, where in groups.items()}
    draw(
        out / "code.png",
        "What a name costs, by how long ago it was defined",
        "tokens since the definition (from this number to the next)",
        by_distance,
        "bits per byte\nof the name",
    )
    kinds = {
        "the name, definition beyond the chunk": done.names.at(far),
        "the name, definition in the chunk": done.names.at(in_chunk),
        "a name that the file has not had in its place": done.decoys,
        "the whole line": done.lines,
    }
    kinds = {kind: of for kind, of in kinds.items() if len(of.sizes)}
    ways = tuple(done.names.bits)
    of = f"{len({x.file for x in found})} files of {source_name(options, 'code')}"
    sizes = f"{len(found):,} lines of {of}"
    texts = [
        f"{sizes}. In each, one name occurs for the first time since the line that defined it. Its "
        "first character is given, and the cost of the rest is counted. Greedy completion is right "
        "if every token is the most likely one after the true tokens before it.",
        figure("Bits per byte of names", "code.png"),
        *[left_out] * bool(few),
        table(head("", ways), lines(kinds)),
        _decoy(done),
        table(
            (
                "tokens since the definition",
                "lines",
                *(f"name completed {OF_TEXTS[way]}" for way in ways),
            ),
            _rights(done, groups),
        ),
        table(("tokens since the definition", *head("", ways)[1:]), lines(by_distance)),
    ]
    if EMPTIED in ways and far.any():
        saved = done.names.at(far).saved(EMPTIED)
        texts.insert(
            0, verdict(saved, "Memory", "bits per byte of names that only it can know", "files")
        )
    right = {
        way: (float(done.name_right[way].mean()), float(done.line_right[way].mean()))
        for way in ways
    }
    emptied = ""
    if EMPTIED in ways:
        emptied = f", {done.names.rate(EMPTIED):.3f} with the memory emptied before the line"
    headline = (
        f"A name costs **{done.names.rate(KEPT):.3f} bits per byte**{emptied}, "
        f"{done.names.rate(ALONE):.3f} with nothing but the line; {right[KEPT][0]:.1%} of the "
        f"names and {right[KEPT][1]:.1%} of the lines are completed correctly."
    )
    values: dict[str, Any] = {
        "lines": len(found),
        "files": len({x.file for x in found}),
        "kinds": {kind: of.numbers() for kind, of in kinds.items()},
        "by_distance": {
            name: of.numbers()
            | {
                "name_right": {
                    OF_TEXTS[way]: float(done.name_right[way][groups[name]].mean()) for way in ways
                }
            }
            for name, of in by_distance.items()
        },
        "name_right": {OF_TEXTS[way]: name for way, (name, _) in right.items()},
        "line_right": {OF_TEXTS[way]: line for way, (_, line) in right.items()},
    }
    return Section("Code", headline, "\n\n".join(texts), values)


def _decoy(done: Completed) -> str:
    """The result of the control, a name that the memory cannot know."""
    if EMPTIED not in done.decoys.bits or not len(done.decoys.sizes):
        return ""
    names = done.names.at(done.has_decoy)
    true, decoy = names.saved(EMPTIED), done.decoys.saved(EMPTIED)
    saved = [(of.bits[EMPTIED] - of.bits[KEPT]) / of.sizes for of in (names, done.decoys)]
    more = clustered_mean(saved[0] - saved[1], names.units)
    return (
        "The control puts a name that is new to the file, which the memory cannot know, in the "
        f"place of the true one. It gains {decoy:+.4f} from the memory, the true one {true:+.4f}. "
        f"Line by line the true one gains {more:+.4f} more, which is knowledge of the name."
    )


def _rights(done: Completed, groups: dict[str, np.ndarray]) -> list[tuple]:
    """A line for each group: how often the name is completed, under each condition."""
    rights = [right.astype(float) for right in done.name_right.values()]
    units = done.names.units
    return [
        (
            name,
            int(where.sum()),
            *(f"{clustered_mean(right[where], units[where]):.1%}" for right in rights),
        )
        for name, where in groups.items()
    ]
