"""Bytes that the devices exchange, from the text of a compiled program (HLO).

A collective counts as often as the loops around it run, and with what one device sends over its
links by the ring algorithm, for a group of g devices and an array of so many bytes, whole:

    all-gather, reduce-scatter, all-to-all      (g - 1) / g
    all-reduce                                  2 (g - 1) / g   a reduce-scatter, then an all-gather
    collective-permute                          the share of the devices that send

The text of TPU programs shows some collectives several times, in each fusion that they run beside:
these stages have the same chain_id, and are one. (The channel_id does not tell: all sums of a
`shard_map` may have the same.) A reduce-scatter may show there as the all-reduce of a fusion that
is called so.
"""

import collections
import dataclasses
import math
import re

from rmat_jax.plan import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    # of KINDS
    kind: str
    # bytes of the whole array, all operands together
    size: float
    # devices that take part with one another
    group: int
    # times a call of the program
    runs: int
    # of the devices that send; all but in a collective-permute
    senders: float = 1.0

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


def bytes_sent(text: str) -> dict[str, float]:
    """Bytes that one device sends in a call of the program, by kind, all of KINDS."""
    total = dict.fromkeys(KINDS, 0.0)
    for collective in find(text):
        total[collective.kind] += collective.sent
    return total


def find(text: str) -> list[Collective]:
    """All collectives of `compiled.as_text()` that run, those between more than one device.

    Of a conditional all branches count.

    Raises:
        ValueError: a loop around a collective whose number of iterations the text does not tell.
    """
    computations, entry = hlo.parse(text)
    devices = math.prod(
        int(n)
        for n in re.findall(r"(?:replica_count|num_partitions)=(\d+)", text.partition("\n")[0])
    )
    found: list[Collective] = []
    seen: set[tuple] = set()

    def visit(name: str, place: tuple[str, ...], runs: int, scatters: bool) -> None:
        """`place`: the loops around it, from the outermost."""
        for instruction in computations[name].values():
            kind = instruction.kind.removesuffix("-start")
            if kind in KINDS:
                group = _group(instruction.rest, devices)
                chain = re.search(r'chain_id="\d+"', instruction.rest)
                stage = (place, chain[0]) if chain else None
                if group > 1 and stage not in seen:
                    shown = "reduce-scatter" if scatters and kind == "all-reduce" else kind
                    size, senders = _size(kind, instruction, group), _senders(instruction, devices)
                    found.append(Collective(shown, size, group, runs, senders))
                if stage:
                    seen.add(stage)
                # what it calls adds two numbers
                continue
            if instruction.kind in ("async-update", "async-done"):
                # they call what their start called
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


def _group(rest: str, devices: int) -> int:
    """Devices of one group, in any notation: {{0,1},{2,3}}, [2,4]<=[8], mesh['a'=2,'b'=4] {'b'}, or
    pairs.
    """
    if pairs := re.search(r"source_target_pairs=\{([^ ]*)\}", rest):
        return 2 if any(a != b for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])) else 1
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(iota[2])
    if mesh := re.search(r"replica_groups=@?mesh\[([^]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        # An axis in part is written 'axis':(size before)size.
        named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    if re.search(r"replica_groups=\{\}", rest) or "replica_groups" not in rest:
        return devices
    raise ValueError(f"replica_groups in a notation that is not known here: {rest[:200]}")


def _senders(instruction: hlo.Instruction, devices: int) -> float:
    """The share of the devices that send something to another one."""
    pairs = re.search(r"source_target_pairs=\{([^ ]*)\}", instruction.rest)
    if not pairs:
        return 1.0
    return sum(a != b for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])) / devices


def _size(kind: str, instruction: hlo.Instruction, group: int) -> float:
    """Bytes of the whole array, from the type of the result. That of a start holds the operands
    too.
    """
    size = sum(
        math.prod(map(int, filter(None, shape.split(",")))) * hlo.bits(dtype) / 8
        for dtype, shape in hlo.ARRAY.findall(re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", instruction.type))
        # a start's contexts
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
