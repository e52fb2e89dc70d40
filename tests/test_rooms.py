"""A room imports what its docstring promises, and no two modules import each other.

A room is a file or a folder of the package. Its docstring has a line `May import: ...`, which names
rooms, and packages from outside the standard library.
"""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rmat_jax"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOMS = sorted({name.partition(".")[0] for name in MODULES} - {"__init__", "__main__"})


def imported(source: str) -> Iterator[str]:
    """What a module imports, wherever in it: `model.RMAT` of this package, `jax.numpy`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                yield name.removeprefix("rmat_jax.")


def promise(docstring: str) -> set[str]:
    """The names after "May import:", up to the period."""
    (names,) = re.findall(r"^May import: ([^.]+)\.$", docstring, re.MULTILINE | re.DOTALL)
    return set() if names == "nothing" else set(names.replace("\n", " ").split(", "))


def broken(room: str, allowed: set[str], source: str) -> set[str]:
    """The first names of the imports that a room did not promise."""
    if allowed == {"everything"}:
        return set()
    return {name.partition(".")[0] for name in imported(source)} - allowed - {room}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_its_promise(room):
    allowed = promise(ast.get_docstring(ast.parse(MODULES[room].read_text())))
    inside = [n for n in MODULES if n == room or n.startswith(f"{room}.")]
    found = {name: broken(room, allowed, MODULES[name].read_text()) for name in inside}
    assert not {name: names for name, names in found.items() if names}
    unused = allowed - {"everything"}
    for name in inside:
        unused -= {found.partition(".")[0] for found in imported(MODULES[name].read_text())}
    assert not unused


def test_control_a_broken_promise_is_found():
    allowed = promise("A room.\n\nMay import: config, jax,\nnumpy.\n")
    assert allowed == {"config", "jax", "numpy"}
    source = "import jax.numpy as jnp\nimport os\ndef f():\n    from rmat_jax.train import step"
    assert broken("infer", allowed, source) == {"train"}
    assert not broken("train", allowed, source)
    assert not broken("commands", promise("May import: everything."), source)
    assert promise("May import: nothing.") == set()


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, the first again as the last; [] if none do."""
    graph = {}
    for name, source in sources.items():
        # a name of a module, or of something in one
        known = {
            found if found in sources else found.rpartition(".")[0] for found in imported(source)
        }
        graph[name] = known & sources.keys()
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other():
    assert not circle({name: path.read_text() for name, path in MODULES.items()})


def test_control_a_circle_is_found():
    sources = {"a": "from rmat_jax.b import f", "b": "from rmat_jax import c", "c": ""}
    assert not circle(sources)
    assert circle(sources | {"c": "def f():\n    import rmat_jax.a"})


def absent(source: str) -> set[str]:
    """The names that a program imports from the package and that are not in it."""
    found = {name for name in imported(source) if name.partition(".")[0] in ROOMS}
    missing = set()
    for name in found - MODULES.keys():
        module, _, attribute = name.rpartition(".")
        if not (module in MODULES and hasattr(import_module(f"rmat_jax.{module}"), attribute)):
            missing.add(name)
    return missing


@pytest.mark.parametrize("folder", ["benchmarks", "configs"])
def test_programs_beside_the_package_import_what_is_there(folder):
    paths = sorted((PACKAGE.parent / folder).glob("*.py"))
    assert paths
    assert not {path.name: found for path in paths if (found := absent(path.read_text()))}


def test_control_a_moved_module_is_found():
    source = "from rmat_jax.plan.topology import parse_topology\nfrom rmat_jax import flags"
    assert not absent(source)
    moved = "from rmat_jax.plan.gone import parse_topology\nfrom rmat_jax.flags import gone"
    assert absent(moved) == {"plan.gone.parse_topology", "flags.gone"}
