"""Measures what the lines of `code` cost, and whether greedy completion is right."""

import dataclasses
import itertools

import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals.conditions import Condition, conditions
from rmat_jax.evals.continuations import ROWS, Costs, Next, costs, groups_of
from rmat_jax.evals.suite import Subject, say
from rmat_jax.evals.suites.code.lines import Line, decoys
from rmat_jax.infer import Session


@dataclasses.dataclass(frozen=True)
class Completed:
    """What n lines cost, and what greedy completion gets right."""

    # the costs of the name after its first character
    names: Costs
    # the costs of the whole line
    lines: Costs
    # The costs of a new name in its place, after its first character. Lines without such a name are
    # left out.
    decoys: Costs
    # [n] bool, whether there is such a name
    has_decoy: np.ndarray
    # [n] bool, by condition
    name_right: dict[Condition, np.ndarray]
    line_right: dict[Condition, np.ndarray]


def measure(subject: Subject, found: list[Line]) -> Completed:
    """Asks for every line after all that stands before it in its file."""
    engine, tokenizer = subject.engine(rows=ROWS), subject.tokenizer
    replaced = decoys(found)
    files = [
        list(group)
        for _, group in itertools.groupby(range(len(found)), key=lambda index: found[index].file)
    ]
    # sorted by length, so that files of a group end together
    files = sorted(files, key=lambda file: sum(len(found[index].context) for index in file))
    results: dict[int, tuple] = {}
    for group in groups_of(ROWS, files):
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
                asked.append(_next(stream, tokenizer, line.before, line.name, line.after))
                if decoy:
                    before = line.before[:-1] + decoy[:1]
                    asked.append(_next(stream, tokenizer, before, decoy[1:], b""))
                cuts.append(len(tokenizer.encode(line.before)))
            made = iter(costs(engine, asked))
            for (_, index), at in zip(here, cuts, strict=True):
                part = slice(at, at + len(tokenizer.encode(found[index].name)))
                results[index] = next(made), part, next(made) if replaced[index] else None
                if len(results) % 50 == 0:
                    say(f"code: {len(results):,} of {len(found):,} lines")
    ways = conditions(bool(engine.model.config.memory))
    ordered = [results[index] for index in range(len(found))]
    return _completed(tokenizer, ways, found, replaced, ordered)


def _next(stream: Session, tokenizer: Tokenizer, before: bytes, name: bytes, after: bytes) -> Next:
    """A line to ask for. Its parts are tokenized separately, so that the name has own tokens."""
    parts = [tokenizer.encode(part) for part in (before, name, after)]
    return Next(stream, tokenizer.encode(b"\n"), np.concatenate(parts))


def _completed(
    tokenizer: Tokenizer,
    ways: tuple[Condition, ...],
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
            {way: total(cost[way].nats[part] for cost, part, _ in results) for way in ways},
            np.array([len(line.name) for line in found]),
            files,
        ),
        Costs(
            {way: total(cost[way].nats for cost, _, _ in results) for way in ways},
            np.array([line.size for line in found]),
            files,
        ),
        Costs(
            {
                way: total(last(results[index][2][way], decoys[index]) for index in with_decoy)
                for way in ways
            },
            np.array([len(decoys[index]) - 1 for index in with_decoy], int),
            files[with_decoy],
        ),
        has_decoy,
        {
            way: np.array([cost[way].correct[part].all() for cost, part, _ in results])
            for way in ways
        },
        {way: np.array([cost[way].correct.all() for cost, _, _ in results]) for way in ways},
    )
