"""Reads the compiler's own estimate of a TPU program's time off its text (HLO).

The TPU compiler notes the cycles that it expects for each operation. An operation counts as often
as the loops around it run. Custom kernels (Pallas) have no estimate; their number and the bytes of
their operands and results are counted. The estimate does not include waiting for other chips.
"""

import dataclasses
import math
import re

from rmat_jax.plan import hlo

# Cycles a second, by chip: the data sheet's peak over the FLOPs of its matrix units in a cycle (v4,
# v5p: 8 units of 128 x 128; v5e: 4; v6e: 4 of 256 x 256).
CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a compiled program, with all its runs."""

    # the part of the model that it comes from, as JAX noted it
    source: str
    # the kind of operation
    kind: str
    runs: int
    # the cycles of all runs; None: a custom kernel
    cycles: int | None
    # the bytes of operands and results of all runs of a custom kernel
    kernel_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimate of a step on one chip."""

    operations: tuple[Operation, ...]

    @property
    def cycles(self) -> int:
        return sum(o.cycles or 0 for o in self.operations)

    @property
    def kernels(self) -> int:
        """The number of operations that are started, one after the other."""
        return sum(o.runs for o in self.operations)

    @property
    def custom(self) -> tuple[Operation, ...]:
        return tuple(o for o in self.operations if o.cycles is None)

    def dearest(self, count: int = 10) -> list[Operation]:
        """The operations with the most cycles; those of the same source and kind count as one."""
        sums: dict[tuple[str, str], Operation] = {}
        for o in self.operations:
            if o.cycles is not None:
                old = sums.get((o.source, o.kind), Operation(o.source, o.kind, 0, 0))
                sums[o.source, o.kind] = dataclasses.replace(
                    old, runs=old.runs + o.runs, cycles=old.cycles + o.cycles
                )
        return sorted(sums.values(), key=lambda o: -o.cycles)[:count]


def estimate(text: str) -> Estimate:
    """Reads `compiled.as_text()`.

    Raises:
        ValueError: the text does not tell a loop's number of iterations.
    """
    computations, entry = hlo.parse(text)
    found: list[Operation] = []

    def visit(name: str, runs: int) -> None:
        for instruction in computations[name].values():
            known = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
            custom = '"tpu_custom_call"' in instruction.rest
            if known or custom:
                found.append(
                    Operation(
                        _source(instruction.rest),
                        instruction.kind,
                        runs,
                        int(known[1]) * runs if known else None,
                        _bytes(instruction) * runs if custom and not known else 0,
                    )
                )
            if instruction.kind == "while":
                times = hlo.iterations(computations, computations[name], instruction)
                visit(re.search(r"body=%?([^\s,)}]+)", instruction.rest)[1], runs * times)
            elif instruction.kind in ("conditional", "call"):
                for called in hlo.called(instruction.rest):
                    visit(called, runs)

    visit(entry, 1)
    return Estimate(tuple(found))


def _source(rest: str) -> str:
    """The end of the operation's name, from the part of the model on."""
    named = re.search(r'op_name="([^"]*)"', rest)
    if not named:
        return ""
    parts = [p for p in named[1].split("/") if p not in ("while", "body", "closed_call")]
    again = "again: " if "rematted_computation" in parts else ""
    backward = "backward: " if "transpose" in named[1] and not again else ""
    return backward + again + "/".join(parts[-3:])


def _bytes(instruction: hlo.Instruction) -> int:
    """The bytes of the results, and of the operands as the call lays them out."""
    operands = re.search(
        r"operand_layout_constraints=\{((?:[^{}]|\{[^{}]*\})*)\}", instruction.rest
    )
    total = 0
    for kind, sides in hlo.ARRAY.findall(instruction.type + (operands[1] if operands else "")):
        if bits := hlo.bits(kind):
            total += math.prod(int(n) for n in sides.split(",") if n) * bits // 8
    return total
