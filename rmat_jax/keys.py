"""Every key of the config with its default and its meaning.

The meaning of a key is the comment above its field, which is read from `config.py`.

May import: config.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import typing
from collections.abc import Iterator

from rmat_jax import config
from rmat_jax.config import Config, typed


@dataclasses.dataclass(frozen=True)
class Key:
    """One setting. `name` is what a user types behind `--config.`."""

    name: str
    value: typing.Any
    meaning: str
    # whether the default follows other keys
    follows: bool


@dataclasses.dataclass(frozen=True)
class Section:
    """One dataclass of the config: its meaning and its keys."""

    # as a user types it, such as "model.memory"; empty for the keys of the experiment itself
    name: str
    meaning: str
    keys: tuple[Key, ...]


def sections(values: Config | None = None) -> Iterator[Section]:
    """The keys of a config, section by section, without those of a branch that is off.

    Args:
        values: the config; None: the defaults.
    """
    return _sections("", Config() if values is None else values)


def _sections(name: str, values: typing.Any) -> Iterator[Section]:
    keys, groups, meanings = [], [], _meanings()[type(values).__name__]
    for field in dataclasses.fields(values):
        value, path = getattr(values, field.name), f"{name}.{field.name}".removeprefix(".")
        if dataclasses.is_dataclass(value):
            groups.append((path, value))
        elif not _groups(field.type):
            # None stands for a value that follows others
            keys.append(Key(path, value, meanings[field.name], field.default is None))
    yield Section(name, _sentences(type(values).__doc__), tuple(keys))
    for path, value in groups:
        yield from _sections(path, value)


def _groups(hint: typing.Any) -> bool:
    """Whether a field holds a section, which may be None."""
    return any(dataclasses.is_dataclass(kind) for kind in (hint, *typing.get_args(hint)))


@functools.cache
def _meanings() -> dict[str, dict[str, str]]:
    """Maps each class of `config.py` to its fields, and each field to the comment above it."""
    source = inspect.getsource(config)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        fields = node.body if isinstance(node, ast.ClassDef) else []
        of_class = found.setdefault(getattr(node, "name", ""), {})
        for field in fields:
            if isinstance(field, ast.AnnAssign):
                of_class[field.target.id] = comment_above(lines, field.lineno - 1)
    return found


def comment_above(lines: list[str], index: int) -> str:
    """The comment above a line, joined into one line; "" where there is none."""
    start = index
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return " ".join(line.lstrip().removeprefix("#").strip() for line in lines[start:index])


def _sentences(docstring: str) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join(docstring.partition("\n\n")[0].split())


def text(values: Config | None = None) -> str:
    """All keys as text for a terminal, each with its meaning below it."""
    parts = []
    for section in sections(values):
        heading = f"{section.name or 'the experiment'}: {section.meaning}"
        parts.append(textwrap.fill(heading, 98, subsequent_indent="  ") + "\n")
        for key in section.keys:
            follows = "  (follows other keys)" if key.follows and values is None else ""
            parts.append(f"  {key.name}={typed(key.value)}{follows}")
            parts.append(textwrap.indent(textwrap.fill(key.meaning, 92), " " * 6))
        parts.append("")
    return "\n".join(parts)


def table() -> str:
    """All keys as a page of Markdown."""
    parts = [
        "# Every key of the config\n",
        "`rmat config` prints this page. A default in parentheses follows other keys.\n",
    ]
    for section in sections():
        parts.append(f"## {section.name or 'The experiment'}\n\n{section.meaning}\n")
        parts.append("| `--config.` | default | meaning |\n|---|---|---|")
        for key in section.keys:
            value = f"`{typed(key.value)}`" if typed(key.value) else "empty"
            value = f"({value})" if key.follows else value
            parts.append(f"| `{key.name}` | {value} | {key.meaning.replace('|', chr(92) + '|')} |")
        parts.append("")
    return "\n".join(parts)
