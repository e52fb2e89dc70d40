"""Breaks down the time of one decoded token: it traces the device loop, and counts each operation
towards a part of the model.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from rmat_jax.errors import UserError

CONTROL = (
    "while",
    "conditional",
    "call",
    "tuple",
    "get-tuple-element",
    "parameter",
    "constant",
    "bitcast",
)
COPIES = "copies of weights and state"
PRODUCTS = "products with weights"
ATTENTION_PRODUCTS = "attention: products with keys and values"
ATTENTION = "attention: masks, softmax, sums"
WRITES = "writes into buffers"
NORMS = "layer norms"
POOL = "running means for the memory"
CLOSE = "memory's write (once a chunk)"
ROTATIONS = "rotary positions"
MLP = "MLP's activation"
LOOP = "sampling and the loop itself"
OTHER = "everything else in the model"


class Op(NamedTuple):
    """One instruction of a compiled program."""

    kind: str
    # its place in the Python program, as JAX noted it; "" where the compiler lost it
    scope: str
    operands: tuple[str, ...]
    # whether it is a product with batch dimensions
    batched: bool


class Profile(NamedTuple):
    """Microseconds a token, by part and by operation."""

    tokens: int
    untraced_us: float
    traced_us: float
    # part -> microseconds and operations a token
    parts: dict[str, tuple[float, float]]
    # the longest operations
    ops: list[dict]

    def text(self) -> str:
        total = sum(us for us, _ in self.parts.values())
        lines = ["| part of one token's time | us | share | operations |", "|---|---|---|---|"]
        for part, (us, count) in self.parts.items():
            lines.append(f"| {part} | {us:.1f} | {us / total:.1%} | {count:.0f} |")
        count = sum(count for _, count in self.parts.values())
        lines.append(f"| all operations | {total:.1f} | 100% | {count:.0f} |")
        return "\n".join(lines) + (
            f"\n\nWall time a token: {self.traced_us:.1f} us while traced, {self.untraced_us:.1f} "
            "us without a trace, "
            "which makes each operation some tenths of a microsecond longer."
        )

    def json(self) -> dict:
        parts = {part: {"us": us, "operations": count} for part, (us, count) in self.parts.items()}
        return self._asdict() | {"parts": parts}


def profile(write: Callable[[int], object], tokens: int, hlo: str) -> Profile:
    """Traces `write(tokens)`, which must have run before.

    Args:
        write: decodes so many tokens, and returns when they are computed.
        tokens: the number of tokens, some hundred.
        hlo: the text of the program that `write` runs.

    Raises:
        UserError: this jax cannot read its own traces, or the trace has no operation of the
            program.
    """
    ops = read_hlo(hlo)
    if not hasattr(jax.profiler, "ProfileData"):
        raise UserError(
            f"jax {jax.__version__} has no jax.profiler.ProfileData; profile with jax 0.10 or later"
        )
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    # a higher level would make operations of a few microseconds twice as long
    options.host_tracer_level = 1
    untraced = min(_seconds(write, tokens) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            traced = _seconds(write, tokens)
        (file,) = Path(folder).rglob("*.xplane.pb")
        spent, count = _read_trace(file, ops)
    if not spent:
        raise UserError(
            f"the trace of {jax.default_backend()} has no operation of the decode loop; run "
            "without --profile"
        )
    parts = {}
    for name in spent:
        part = part_of(name, ops)
        us, number = parts.get(part, (0, 0))
        parts[part] = us + spent[name] / tokens / 1e3, number + count[name] / tokens
    longest = [
        {
            "op": name,
            "us": spent[name] / tokens / 1e3,
            "times": count[name] / tokens,
            "part": part_of(name, ops),
            "scope": scope_of(name, ops),
        }
        for name, _ in spent.most_common(40)
    ]
    parts = dict(sorted(parts.items(), key=lambda item: -item[1][0]))
    return Profile(tokens, untraced / tokens * 1e6, traced / tokens * 1e6, parts, longest)


def _seconds(write: Callable[[int], object], tokens: int) -> float:
    start = time.perf_counter()
    write(tokens)
    return time.perf_counter() - start


def _read_trace(file: Path, ops: Mapping[str, Op]) -> tuple[Counter, Counter]:
    """The nanoseconds and the number of each operation of the program. Loops and branches count by
    the operations in them.
    """
    spent, count = Counter(), Counter()
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            # the other lines hold the same operations again
            if on_device and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = event.name
                # kernels have names of their own
                if on_device and name not in ops:
                    name = dict(event.stats).get("hlo_op", "")
                if name in ops and ops[name].kind not in CONTROL:
                    spent[name] += event.duration_ns
                    count[name] += 1
    return spent, count


INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = .*?[\]})] ([a-z][\w\-]*)\((.*)")


def read_hlo(text: str) -> dict[str, Op]:
    """Reads all instructions of a compiled program, by name."""
    ops = {}
    for line in text.splitlines():
        found = INSTRUCTION.match(line)
        if found:
            name, kind, rest = found.groups()
            scope = re.search(r'op_name="([^"]*)"', rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.partition("), ")[0]))
            batched = "lhs_batch_dims={}" not in rest and "lhs_batch_dims={" in rest
            ops[name] = Op(kind, scope[1] if scope else "", operands, batched)
    return ops


def scope_of(name: str, ops: Mapping[str, Op], depth: int = 4) -> str:
    """The operation's scope, or, where the compiler lost it, the scope of its operands."""
    op = ops.get(name)
    if op is None or op.scope or depth == 0:
        return op.scope if op else ""
    return max((scope_of(operand, ops, depth - 1) for operand in op.operands), key=len, default="")


def part_of(name: str, ops: Mapping[str, Op]) -> str:
    """The part of the model that an operation belongs to, by its kind and the names of the modules
    in its scope.
    """
    op, scope = ops[name], scope_of(name, ops)
    last = op.scope.rpartition("/")[2]
    if "_close/" in scope and "branch" in scope:
        return CLOSE
    if op.kind == "dot" or last == "dot_general":
        in_attention = op.batched or (
            op.kind != "dot" and not re.search(r"/(query|key|value|output|inner|outer)/", scope)
        )
        return ATTENTION_PRODUCTS if in_attention and "_logits" not in scope else PRODUCTS
    if op.kind == "copy" or (last in ("dynamic_slice", "slice") and "RMAT" in scope):
        return COPIES
    if last in ("dynamic_update_slice", "scatter"):
        return WRITES
    if "norm/" in scope and "pool" not in scope:
        return NORMS
    if "pool" in scope:
        return POOL
    if "_rotate" in scope:
        return ROTATIONS
    if "/mlp/" in scope:
        return MLP
    if re.search(r"/layers_\d+/", scope):
        return ATTENTION
    return OTHER if "RMAT" in scope else LOOP
