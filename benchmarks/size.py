"""Counts how much there is to read of the model, and in how many places its options are looked at.

    python benchmarks/size.py
    python benchmarks/size.py ../version1/rmat_jax    # another checkout, such as one of 3a94fb7

Printed: the lines of the model's files; the longest function of them; the places that compare an
option of the architecture with one of its values, by file; the distinct blocks that the options
make.
"""

import argparse
import ast
import itertools
from pathlib import Path

MODEL = ("model.py", "modules", "ops/attention.py", "ops/pool.py", "ops/rope.py")
# The names of options whose values are words, in version 1 and now.
OPTIONS = {"branches", "fused", "keeps", "read", "gate", "rope"}
OPTIONS |= {"streams", "fusion", "window", "gate_form", "gate_scope", "gate_curve"}
OPTIONS |= {"memory_pool", "memory_source", "memory_age"}


def sources(package: Path, parts=(".",)) -> list[Path]:
    found = [package / part for part in parts if (package / part).exists()]
    return sorted(f for p in found for f in ([p] if p.is_file() else p.rglob("*.py")))


def comparisons(tree: ast.AST) -> int:
    """Comparisons of an attribute that is named as an option with words."""

    def is_word(node):
        items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return all(isinstance(x, ast.Constant) and isinstance(x.value, str) for x in items)

    def is_option(node):
        node = node.value if isinstance(node, ast.Subscript) else node
        return isinstance(node, ast.Attribute) and node.attr in OPTIONS

    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            count += any(map(is_option, sides)) and any(map(is_word, sides))
    return count


def functions(tree: ast.AST) -> list[tuple[int, str]]:
    """The length of each function without its docstring, and its name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            signature = node.body[0].lineno - node.lineno
            found.append((node.end_lineno - first.lineno + 1 + signature, node.name))
    return found


def blocks() -> int:
    """The distinct blocks of this version, by enumeration."""
    from rmat_jax.config import BRANCHES, Local, Memory, RMATConfig
    from rmat_jax.errors import UserError

    found = set()
    choices = itertools.product(
        *[(True, False)] * 4, ("inputs", "outputs"), ("joint", "stream"), ("slot", "gru", "none")
    )
    for *shown, sliding, keeps, read, gate in choices:
        branches = tuple(b for b, here in zip(BRANCHES, shown, strict=True) if here)
        local = Local(sliding=sliding) if "local" in branches else None
        memory = Memory(keeps=keeps, read=read, gate=gate) if "memory" in branches else None
        try:
            found.add(RMATConfig(branches=branches, local=local, memory=memory))
        except UserError:
            continue
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "package", type=Path, nargs="?", default="rmat_jax", help="a package; default %(default)s"
    )
    package = parser.parse_args().package
    files = sources(package, MODEL)
    lines = sum(len(f.read_text().splitlines()) for f in files)
    print(f"model: {lines} lines in {len(files)} files")
    longest = max((*found, f.name) for f in files for found in functions(ast.parse(f.read_text())))
    print(
        f"longest function: {longest[1]} in {longest[2]}, {longest[0]} lines without its docstring"
    )
    places = {f: comparisons(ast.parse(f.read_text())) for f in sources(package)}
    places = {f.relative_to(package): count for f, count in places.items() if count}
    print(f"comparisons of options: {sum(places.values())} in {len(places)} files")
    for file, count in sorted(places.items(), key=lambda x: -x[1]):
        print(f"  {count:3d} {file}")
    if package.resolve() == Path(__file__).resolve().parents[1] / "rmat_jax":
        print(f"distinct blocks: {blocks()}")


if __name__ == "__main__":
    main()
