"""Imports go only downward through the rooms."""

import ast
from pathlib import Path

# From the lowest room up; those on one line do not know each other.
ROOMS = [
    ["errors", "colours"],
    ["config"],
    ["types", "sealed", "signals"],
    ["digests"],
    ["ops"],
    ["modules"],
    ["model"],
    ["flops"],
    ["data"],
    # decoding needs no training
    ["infer"],
    ["train.optim", "train.sharding", "train.processes"],
    ["train.state"],
    ["train.step"],
    ["train.parallel"],
    ["train.checkpoint", "train.metrics"],
    ["runs"],
    ["evals", "bench", "plan"],
    ["train.loop"],
    ["flags"],
    ["interop", "ablate"],
    ["commands"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
PACKAGE = Path(__file__).parent.parent / "rmat_jax"


def imported(source: str):
    """The rooms that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (room(name.split(".")[1:]) for name in names if name.startswith("rmat_jax."))


def room(parts: list[str]) -> str:
    """`train` is so large that each of its files has a rank; otherwise a folder is a room."""
    return ".".join(parts[:2]) if parts[0] == "train" else parts[0]


def violations(here: str, source: str) -> list[str]:
    return [
        f"{here} imports {there}"
        for there in imported(source)
        if there != here and RANK[there] >= RANK[here]
    ]


def test_imports_go_downward():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = room(list(path.relative_to(PACKAGE).with_suffix("").parts))
        if here != "__init__":
            found += violations(here, path.read_text())
    assert not found


def test_control_an_upward_import_is_found():
    assert violations("model", "from rmat_jax.train.state import TrainState") == [
        "model imports train.state"
    ]
    assert violations("infer", "def f():\n    from rmat_jax.train import step") == [
        "infer imports train.step"
    ]
    assert not violations("model", "from rmat_jax.modules.block import Block")
