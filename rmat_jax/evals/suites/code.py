"""The next line of a source file: does it find names that were defined further back than a chunk?"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals import plots
from rmat_jax.evals.answers import batches
from rmat_jax.evals.compared import verdict
from rmat_jax.evals.heldout import Mean, clustered_mean, offset_bins
from rmat_jax.evals.inputs.code_lines import Line, decoys, find
from rmat_jax.evals.inputs.texts import source_name
from rmat_jax.evals.suite import Options, Section, Subject, figure, say, table
from rmat_jax.evals.ways import ALONE, EMPTIED, KEPT, Costs, Next, costs, draw, head, lines, ways

# files that are read side by side
ROWS = 8
# a group of fewer is not drawn
MIN_LINES = 10


@dataclasses.dataclass(frozen=True)
class Completed:
    """What the lines cost, one entry each, and what greedy completion gets right."""

    # the name after its first character
    names: Costs
    lines: Costs
    # a name that the file has not had in its place, after its first character
    decoys: Costs
    # bool, of each line
    has_decoy: np.ndarray
    # bool, by way
    name_right: dict[str, np.ndarray]
    line_right: dict[str, np.ndarray]


def check(subject: Subject, options: Options) -> None:
    """What can be told at once. Raises UserError."""
    find(subject, options)


def code(subject: Subject, options: Options, out: Path) -> Section:
    """Lines that use a name for the first time since its definition, by the distance to it.

    Raises:
        UserError: no text, or none with such lines.
    """
    found = find(subject, options)
    done = measure(subject, found)
    distances, in_chunk = (
        np.array([x.distance for x in found]),
        np.array([x.in_chunk for x in found]),
    )
    bins = offset_bins(distances) - 1
    groups = {f"{plots.count_name(2.0**bin)}": bins == bin for bin in np.unique(bins)}
    groups = {name: where for name, where in groups.items() if where.sum() >= MIN_LINES} or groups
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
    names = tuple(done.names.bits)
    sizes = (
        f"{len(found):,} lines of {len({x.file for x in found})} files of {source_name(options)}"
    )
    texts = [
        f"{sizes}. In each, one name occurs for the first time since the line that defined it; its first character is "
        "given, and counted is what the rest costs. Greedy completion is right where every token is the most likely one after "
        "the true ones before it.",
        figure("Bits per byte of names", "code.png"),
        table(head("", names), lines(kinds)),
        _decoy(done),
        table(
            ("tokens since the definition", "lines", *(f"name completed {way}" for way in names)),
            _rights(done, groups),
        ),
        table(("tokens since the definition", *head("", names)[1:]), lines(by_distance)),
    ]
    if EMPTIED in names and far.any():
        saved = done.names.at(far).saved(EMPTIED)
        texts.insert(
            0, verdict(saved, "Memory", "bits per byte of names that only it can know", "files")
        )
    right = {
        way: (float(done.name_right[way].mean()), float(done.line_right[way].mean()))
        for way in names
    }
    headline = (
        f"A name costs **{done.names.rate(KEPT):.3f} bits per byte**"
        + (
            f", {done.names.rate(EMPTIED):.3f} with the memory emptied before the line"
            if EMPTIED in names
            else ""
        )
        + f", {done.names.rate(ALONE):.3f} with nothing but the line; completed right are {right[KEPT][0]:.1%} of the "
        f"names and {right[KEPT][1]:.1%} of the lines."
    )
    values: dict[str, Any] = {
        "lines": len(found),
        "files": len({x.file for x in found}),
        "kinds": {kind: of.numbers() for kind, of in kinds.items()},
        "by_distance": {
            name: of.numbers()
            | {
                "name_right": {
                    way: float(done.name_right[way][groups[name]].mean()) for way in names
                }
            }
            for name, of in by_distance.items()
        },
        "name_right": {way: name for way, (name, _) in right.items()},
        "line_right": {way: line for way, (_, line) in right.items()},
    }
    return Section("Code", headline, "\n\n".join(texts), values)


def measure(subject: Subject, found: list[Line]) -> Completed:
    """Asks for every line after all that stands before it in its file."""
    engine, tokenizer = subject.engine(rows=ROWS), subject.tokenizer
    replaced = decoys(found)
    files = [
        list(group)
        for _, group in itertools.groupby(range(len(found)), key=lambda index: found[index].file)
    ]
    # neighbours end together
    files = sorted(files, key=lambda file: sum(len(found[index].context) for index in file))
    results: dict[int, tuple] = {}
    for group in batches(files, ROWS):
        streams = [engine.open() for _ in group]
        for place in range(max(map(len, group))):
            here = [
                (stream, file[place])
                for stream, file in zip(streams, group, strict=True)
                if place < len(file)
            ]
            for stream, index in here:
                stream.read(found[index].context)
            asked, cuts = [], []
            for stream, index in here:
                line, decoy = found[index], replaced[index]
                asked += [_next(stream, tokenizer, line.before, line.name, line.after)]
                asked += (
                    [_next(stream, tokenizer, line.before[:-1] + decoy[:1], decoy[1:], b"")]
                    if decoy
                    else []
                )
                cuts.append(len(tokenizer.encode(line.before)))
            made = iter(costs(engine, asked))
            for (_, index), at in zip(here, cuts, strict=True):
                part = slice(at, at + len(tokenizer.encode(found[index].name)))
                results[index] = next(made), part, next(made) if replaced[index] else None
                if len(results) % 50 == 0:
                    say(f"code: {len(results):,} of {len(found):,} lines")
    return _completed(
        tokenizer, ways(engine), found, replaced, [results[index] for index in range(len(found))]
    )


def _next(stream, tokenizer: Tokenizer, before: bytes, name: bytes, after: bytes) -> Next:
    """The parts are tokenized each for itself, so that the name's tokens are its own."""
    parts = [tokenizer.encode(part) for part in (before, name, after)]
    return Next(stream, tokenizer.encode(b"\n"), np.concatenate(parts))


def _completed(
    tokenizer: Tokenizer,
    names: tuple[str, ...],
    found: list[Line],
    decoys: list[bytes],
    results: list[tuple],
) -> Completed:
    files = np.array([line.file for line in found])

    def total(values) -> np.ndarray:
        return np.array([nats.sum() for nats in values]) / np.log(2)

    def last(cost, decoy: bytes):
        return cost.nats[-len(tokenizer.encode(decoy[1:])) :]

    has_decoy = np.array([len(decoy) > 0 for decoy in decoys])
    with_decoy = np.flatnonzero(has_decoy)
    return Completed(
        Costs(
            {way: total(cost[way].nats[part] for cost, part, _ in results) for way in names},
            np.array([len(line.name) for line in found]),
            files,
        ),
        Costs(
            {way: total(cost[way].nats for cost, _, _ in results) for way in names},
            np.array([line.size for line in found]),
            files,
        ),
        Costs(
            {
                way: total(last(results[index][2][way], decoys[index]) for index in with_decoy)
                for way in names
            },
            np.array([len(decoys[index]) - 1 for index in with_decoy], int),
            files[with_decoy],
        ),
        has_decoy,
        {
            way: np.array([cost[way].correct[part].all() for cost, part, _ in results])
            for way in names
        },
        {way: np.array([cost[way].correct.all() for cost, _, _ in results]) for way in names},
    )


def _decoy(done: Completed) -> str:
    """What the control says."""
    if EMPTIED not in done.decoys.bits or not len(done.decoys.sizes):
        return ""
    names = done.names.at(done.has_decoy)
    true, decoy = names.saved(EMPTIED), done.decoys.saved(EMPTIED)
    saved = [(of.bits[EMPTIED] - of.bits[KEPT]) / of.sizes for of in (names, done.decoys)]
    more = clustered_mean(saved[0] - saved[1], names.units)
    return (
        "The control: in the place of the true name one that the file has not had, which the memory cannot know. It gains "
        f"{decoy.value:+.4f} ± {decoy.error:.4f} from the memory, the true one {true.value:+.4f} ± {true.error:.4f}. Line by "
        f"line the true one gains {more.value:+.4f} ± {more.error:.4f} more: so much is knowledge of the name."
    )


def _rights(done: Completed, groups: dict[str, np.ndarray]) -> list[tuple]:
    def shown(values: np.ndarray, units: np.ndarray) -> str:
        mean: Mean = clustered_mean(values.astype(float), units)
        return f"{mean.value:.1%} ± {mean.error:.1%}"

    return [
        (
            name,
            int(where.sum()),
            *(shown(right[where], done.names.units[where]) for right in done.name_right.values()),
        )
        for name, where in groups.items()
    ]
