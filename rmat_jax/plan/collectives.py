"""Counts the bytes that devices exchange, from the text of a compiled program (HLO).

A collective counts as often as the loops around it run. Each time it counts with the bytes that one
device sends by the ring algorithm. For a group of g devices that is this share of the whole array:

    all-gather, reduce-scatter, all-to-all      (g - 1) / g
    all-reduce                                  2 (g - 1) / g   a reduce-scatter, then an all-gather
    collective-permute                          the share of the devices that send

The text of TPU programs shows some collectives several times, once in each fusion beside which they
run. These stages have the same chain_id and count once. (The channel_id does not tell them apart,
since all sums of a `shard_map` may have the same.) A reduce-scatter may appear there as an
all-reduce in a fusion named all-reduce-scatter.
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rmat_jax.plan import hlo

# a shape, and optionally an order of its axes
IOTA = r"(\[[\d,]*\])(?:T\(([\d,]*)\))?"
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    # one of KINDS
    kind: str
    # bytes of the whole array, all operands together
    size: float
    # the number of devices that exchange with one another; 2 for a collective-permute
    group: int
    # how often it runs in a call of the program
    runs: int
    # the share of the devices that send: 1 for all but collective-permutes
    senders: float = 1.0
    # the axes of the mesh along which the devices of a group lie
    axes: tuple[str, ...] = ()

    @property
    def sent(self) -> float:
        """Bytes that one device sends in a call of the program."""
        if self.kind == "collective-permute":
            return self.size * self.senders * self.runs
        return (
            (2 if self.kind == "all-reduce" else 1)
            * self.size
            * (self.group - 1)
            / self.group
            * self.runs
        )


class Sent(NamedTuple):
    """Bytes that one device sends in a call of a program, divided in two ways."""

    # bytes by kind, for all of KINDS
    kinds: dict[str, float]
    # bytes by the axes of the mesh along which they go, joined by " x "
    axes: dict[str, float]


def bytes_sent(text: str, mesh: dict[str, int] | None = None) -> Sent:
    """The bytes that the collectives of `compiled.as_text()` send, see `find`."""
    return add_up((c.kind, c.axes, c.sent) for c in find(text, mesh))


def add_up(parts: Iterable[tuple[str, Iterable[str], float]]) -> Sent:
    """Adds up parts (kind, axes, bytes)."""
    sent = Sent(dict.fromkeys(KINDS, 0.0), {})
    for kind, axes, size in parts:
        along = " x ".join(axes)
        sent.kinds[kind] += size
        sent.axes[along] = sent.axes.get(along, 0.0) + size
    return sent


def find(text: str, mesh: dict[str, int] | None = None) -> list[Collective]:
    """Finds all collectives of `compiled.as_text()` that run between two devices or more.

    All branches of a conditional count.

    Args:
        text: the text of the program.
        mesh: the sizes of the mesh's axes, in their order; None: axes have no names.

    Raises:
        ValueError: the text does not tell the number of iterations of a loop around a collective.
    """
    computations, entry = hlo.parse(text)
    devices = math.prod(
        int(n)
        for n in re.findall(r"(?:replica_count|num_partitions)=(\d+)", text.partition("\n")[0])
    )
    mesh = {"": devices} if mesh is None else mesh
    found: list[Collective] = []
    seen: set[tuple] = set()

    def visit(name: str, place: tuple[str, ...], runs: int, scatters: bool) -> None:
        """Args: place: the loops around the computation, from the outermost."""
        for instruction in computations[name].values():
            kind = instruction.kind.removesuffix("-start")
            if kind in KINDS:
                group, axes = _group(instruction.rest, devices, mesh)
                chain = re.search(r'chain_id="\d+"', instruction.rest)
                stage = (place, chain[0]) if chain else None
                if group > 1 and stage not in seen:
                    shown = "reduce-scatter" if scatters and kind == "all-reduce" else kind
                    size, senders = _size(kind, instruction, group), _senders(instruction, devices)
                    found.append(Collective(shown, size, group, runs, senders, axes))
                if stage:
                    seen.add(stage)
                # the computation that it calls only adds two numbers
                continue
            if instruction.kind in ("async-update", "async-done"):
                # they name the computation that their start has called
                continue
            for called in hlo.called(instruction.rest):
                if called not in reaches:
                    continue
                if instruction.kind == "while":
                    times = hlo.iterations(computations, computations[name], instruction)
                    visit(called, (*place, instruction.name), runs * times, scatters)
                else:
                    visit(called, place, runs, scatters or called.startswith("all-reduce-scatter"))

    reaches = _with_collectives(computations)
    visit(entry, (), 1, False)
    return found


def _with_collectives(computations: dict[str, hlo.Computation]) -> set[str]:
    """The computations that hold a collective or call one that does."""
    callers = collections.defaultdict(set)
    reached = []
    for name, computation in computations.items():
        if any(i.kind.removesuffix("-start") in KINDS for i in computation.values()):
            reached.append(name)
        for instruction in computation.values():
            for called in hlo.called(instruction.rest):
                callers[called].add(name)
    seen = set(reached)
    while reached:
        new = callers[reached.pop()] - seen
        seen |= new
        reached += new
    return seen


def _group(rest: str, devices: int, mesh: dict[str, int]) -> tuple[int, tuple[str, ...]]:
    """Reads the size of a group and the axes along which it lies, in any notation: {{0,1},{2,3}},
    [2,4]<=[2,4]T(1,0), mesh['a'=2,'b'=4] {'b'}, or pairs.
    """
    if named := re.search(r"replica_groups=@?mesh\[([^]]*)\]([^{]*)\{([^}]*)\}", rest):
        members = _along_named(*named.groups())
    elif pairs := re.search(r"source_target_pairs=\{([^ ]*)\}", rest):
        found = re.findall(r"\{(\d+),(\d+)\}", pairs[1])
        members = next(([int(a), int(b)] for a, b in found if a != b), [0])
    elif listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        members = [int(n) for n in listed[1].split(",")]
    elif iota := re.search(rf"replica_groups=(\[\d+,\d+\])<={IOTA}", rest):
        members = _iota(iota[2], iota[3]).reshape(json.loads(iota[1]))[0]
    elif re.search(r"replica_groups=\{\}", rest) or "replica_groups" not in rest:
        members = range(devices)
    else:
        raise ValueError(f"replica_groups in a notation that is not known here: {rest[:200]}")
    places = np.unravel_index(np.array(members), tuple(mesh.values()))
    axes = (axis for axis, at in zip(mesh, places, strict=True) if axis and len({*at.tolist()}) > 1)
    return len(members), tuple(axes)


def _iota(shape: str, order: str | None) -> np.ndarray:
    """Reads an array such as [2,4]T(1,0): eight numbers in that shape, transposed."""
    shape = json.loads(shape)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose([int(n) for n in order.split(",")] if order else None)


def _along_named(sizes: str, order: str, axes: str) -> np.ndarray:
    """Reads the first group of mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}. The compiler's
    mesh has names of its own.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", sizes)}
    numbers = _iota(f"[{math.prod(sizes.values())}]", None)
    if given := re.search(rf"device_ids=\({IOTA}\)", order):
        numbers = _iota(*given.groups())
    places = dict.fromkeys(sizes, [0])
    # A part of an axis is written 'axis':(size before)size.
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        count = int(part or sizes[name])
        stride = sizes[name] // (int(before or 1) * count)
        more = stride * np.arange(count)
        places[name] = np.add.outer(places[name], more).ravel()
    return numbers.reshape(tuple(sizes.values()))[np.ix_(*places.values())].ravel()


def _senders(instruction: hlo.Instruction, devices: int) -> float:
    """The share of the devices that send something to another one."""
    pairs = re.search(r"source_target_pairs=\{([^ ]*)\}", instruction.rest)
    if not pairs:
        return 1.0
    return sum(a != b for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])) / devices


def _size(kind: str, instruction: hlo.Instruction, group: int) -> float:
    """Bytes of the whole array, from the type of the result; the result of a start holds the
    operands too.
    """
    size = sum(
        math.prod(map(int, filter(None, shape.split(",")))) * hlo.bits(dtype) / 8
        for dtype, shape in hlo.ARRAY.findall(re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", instruction.type))
        # the scalars in a start's result are contexts
        if not (instruction.kind.endswith("-start") and not shape)
    )
    started = instruction.kind.endswith("-start")
    if kind == "all-gather":
        return size * group / (group + 1) if started else size
    if kind == "reduce-scatter":
        return size * group / (group + 1) if started else size * group
    if kind in ("all-to-all", "collective-permute"):
        return size / 2 if started else size
    return size
