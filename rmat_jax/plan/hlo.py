"""Reads the text of a compiled program (HLO): its computations, and how often its loops run."""

import dataclasses
import re

# the bits of types whose name does not tell them
BITS = {"pred": 8, "token": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([^\s,)}]+)")
_CALLED_LISTS = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    kind: str
    # the line from the operands on
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([^\s,()]+)", self.rest.partition(")")[0])


# instructions by name; the last tuple is the result of a loop's body
Computation = dict[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Reads the computations, and the name of the one that runs first."""
    computations, entry, current = {}, "", {}
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            current[match[1]] = Instruction(*match.groups())
    return computations, entry


def called(rest: str) -> list[str]:
    lists = (
        name.strip().lstrip("%")
        for names in _CALLED_LISTS.findall(rest)
        for name in names.split(",")
    )
    return [*_CALLED.findall(rest), *lists]


def iterations(computations: dict[str, Computation], around: Computation, loop: Instruction) -> int:
    """How often a loop runs: as the compiler noted, or else by the start, the step and the bound of
    its counter.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition, body = (
        computations[re.search(rf"{part}=%?([^\s,)}}]+)", loop.rest)[1]]
        for part in ("condition", "body")
    )
    try:
        compare = next(
            i for i in condition.values() if i.kind == "compare" and "direction=LT" in i.rest
        )
        counter, end = (behind(condition, name) for name in compare.operands)
        place = int(re.search(r"index=(\d+)", counter.rest)[1])
        result = [i for i in body.values() if i.kind == "tuple"][-1]
        added = behind(body, result.operands[place])
        step = next(
            i for i in (behind(body, name) for name in added.operands) if i.kind == "constant"
        )
        start = behind(around, behind(around, loop.operands[0]).operands[place])
        if [added.kind, start.kind, end.kind] != ["add", "constant", "constant"]:
            raise LookupError
        start, end, step = (int(i.rest.partition(")")[0]) for i in (start, end, step))
    except (LookupError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(
            f"how often does the loop {loop.name} run? Its counter has an unknown form"
        ) from error
    return -(-(end - start) // step)


def behind(computation: Computation, name: str) -> Instruction:
    """The instruction of a name, or the one that it copies."""
    while computation[name].kind in ("copy", "bitcast"):
        name = computation[name].operands[0]
    return computation[name]


def bits(dtype: str) -> int:
    """The bits of one number."""
    return BITS[dtype] if dtype in BITS else int(re.search(r"\d+", dtype)[0])
