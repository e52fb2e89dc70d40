"""Every command that the documentation prints can be typed: the command is there and has these
flags, the config files are there and have these keys. Nothing of it is run.
"""

import argparse
import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmat_jax import commands, flags
from rmat_jax.errors import EXTRAS, UserError
from tests.test_rooms import absent

ROOT = Path(__file__).parents[1]
PAGES = [*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PROGRAMS = [
    *sorted((ROOT / "rmat_jax/commands").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "configs").glob("*.py")),
]
SOURCES = PAGES + PROGRAMS
# stands for what somebody fills in
BLANK = re.compile(r"\.\.\.|[A-Z][A-Z_]*")


# a block of code of another commit, whose options may have had other names
OF_OTHERS = re.compile(r"^    git checkout [0-9a-f]{7}\b.*\n(?:(?:    .*)?\n)*", re.MULTILINE)


def text_of(source: Path) -> str:
    """A page without the commands of other commits, or the docstring of a program."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        return OF_OTHERS.sub("", text)
    return ast.get_docstring(ast.parse(text)) or ""


def blocks(text: str) -> list[str]:
    """The blocks of code of a page: what is indented by four spaces."""
    found = re.findall(r"(?:^(?:    .*)?\n)*^    .*$", text, re.MULTILINE)
    return ["\n".join(line[4:] for line in block.strip("\n").split("\n")) for block in found]


def is_python(block: str) -> bool:
    return bool(re.match(r"(import|from) \w", block))


def words(line: str) -> list[list[str]]:
    """The commands of a line of shell, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    found = [[]]
    for word in lexer:
        if set(word) <= set(";|&"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def arguments(command: list[str]) -> tuple[str, list[str]] | None:
    """The program of this project that a command starts, and its arguments; None: another's."""
    for index, word in enumerate(command):
        after = command[index + 1 :]
        if word == "rmat":
            return "rmat_jax", after
        if word.rpartition("/")[2] != "python" or not after:
            continue
        if after[0] == "-m":
            module = after[1]
            return (module, after[2:]) if module.startswith(("rmat_jax", "benchmarks")) else None
        if after[0].endswith(".py"):
            return after[0].removesuffix(".py").replace("/", "."), after[1:]
    return None


def printed(block: str) -> Iterator[tuple[str, list[str]]]:
    """The programs of this project that a block of shell starts, with their arguments."""
    if is_python(block):
        return
    text = re.sub(r"\$\w+", "0", block.replace("\\\n", " "))
    for line in text.splitlines():
        if "rmat" not in line and "python" not in line:
            continue
        for command in words(line):
            if found := arguments(command):
                yield found
                continue
            # a command within a flag of another: --command="python train.py ..."
            for word in command:
                inner = word.partition("=")[2]
                for command in words(inner) if " " in inner else []:
                    if found := arguments(command):
                        yield found


def inline(text: str) -> Iterator[tuple[str, list[str]]]:
    """The programs that a sentence names in backquotes, with some of their arguments."""
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    for code in re.findall(r"`((?:python|rmat) [^`]+)`", prose):
        for command in words(" ".join(code.split())):
            found = arguments(command)
            if found and found[1] and not BLANK.fullmatch(found[1][0]):
                yield found


class Parsed(Exception):
    """A program has read its arguments, and goes no further."""


def check(program: str, argv: list[str], monkeypatch, whole: bool = True) -> None:
    """Raises UserError where a program does not take its arguments.

    Args:
        program: a module, such as rmat_jax or benchmarks.recall.
        argv: its arguments.
        whole: False: those that it needs may be missing.
    """
    argv = [
        f"{name}=quickstart" if BLANK.fullmatch(value) and name == "--config" else word
        for word in argv
        for name, _, value in [word.partition("=")]
    ]
    if not whole:
        error = flags.Parser.error

        def lenient(parser, message):
            if "are required" not in message:
                error(parser, message)

        monkeypatch.setattr(flags.Parser, "error", lenient)
    if program in ("rmat_jax", "train"):
        module, args = commands.parse([*["train"] * (program == "train"), *argv])
        if getattr(args, "config", None) and getattr(module, "SETS_CONFIG", False):
            check_config(args.config, args.overrides, args.own)
        if module is commands.ablate and not BLANK.fullmatch(args.config or "..."):
            # the names and keys of the variants
            args.list, args.overrides = True, filled(args.overrides)
            module.main(args)
        return
    try:
        module = importlib.import_module(program)
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            # the package of an extra, which reads the arguments
            return
        raise UserError(f"there is no program {program}") from None
    parse = argparse.ArgumentParser.parse_known_args

    def parsed(parser, given=None, namespace=None):
        raise Parsed(*parse(parser, given, namespace))

    def parsed_alone(parser, given=None, namespace=None):
        args, rest = parse(parser, given, namespace)
        if rest:
            raise UserError(f"{program} has no {rest}")
        raise Parsed(args, [])

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [program, *argv])
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parsed)
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed_alone)
        try:
            module.main()
        except Parsed as found:
            args, rest = found.args
            check_config(getattr(args, "config", "quickstart"), rest, vars(args))
        else:
            raise AssertionError(f"{program} reads no arguments")


def filled(overrides: list[str]) -> list[str]:
    return [o for o in overrides if not BLANK.fullmatch(o.partition("=")[2])]


def check_config(config: str, overrides: list[str], own) -> None:
    flags.load_config(config, filled(overrides), list(own))
    known = flags._dotted(flags.defaults().to_dict())
    for override in overrides:
        flags._check_override(override, known, list(own))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_printed_commands_can_be_typed(source, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = text_of(source)
    for block in blocks(text):
        for program, argv in printed(block):
            # a word ... stands for the flags of the line above
            with monkeypatch.context() as patch:
                given = [word for word in argv if word != "..."]
                check(program, given, patch, whole=given == argv)
    with monkeypatch.context() as patch:
        for program, argv in inline(text):
            check(program, argv, patch, whole=False)


def test_commands_of_other_commits_are_left_out():
    today, other = (
        "a\n\n    python b.py\n\nc\n\n",
        "    git checkout 3a94fb7    # d\n    python e.py\n",
    )
    assert OF_OTHERS.sub("", f"{today}{other}\n    f\n\ng\n") == f"{today}g\n"


def test_the_commands_are_found():
    """A control: README and docs have dozens."""
    found = [program for page in PAGES for b in blocks(text_of(page)) for program, _ in printed(b)]
    assert found.count("rmat_jax") > 30 and found.count("train") > 10
    assert {"benchmarks.babi", "benchmarks.faults", "benchmarks.recall"} <= set(found)


@pytest.mark.parametrize(
    "line",
    [
        "rmat generat --workdir=runs/x",
        "rmat generate --workdir=runs/x --promt=a",
        "python train.py --config=configs/gone.py --workdir=runs/x",
        "python train.py --config=configs/quickstart.py --workdir=runs/x --config.model.widht=3",
        "python train.py --config=configs/quickstart.py",
        'ssh NAME --command="cd x && python train.py --config=gone --workdir=x"',
        "for seed in 0 1; do python benchmarks/recall.py --out=x --sed=$seed; done",
        "python benchmarks/gone.py",
        "python benchmarks/babi.py --out=x --config.data.gone=3",
        "python -m rmat_jax ablate --config=quickstart --out=x --variants=gone",
    ],
)
def test_control_a_wrong_command_is_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    ((program, argv),) = printed(line)
    with pytest.raises(UserError):
        check(program, argv, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_in_sentences_are_there(page):
    assert not strangers(text_of(page))


def strangers(text: str) -> list[str]:
    """The keys behind --config. that no config has. `--config.model.` alone begins many."""
    known = flags._dotted(flags.defaults().to_dict())
    found = re.findall(r"--config\.([a-z_0-9.]*[a-z_0-9])(\.?)", text)
    return [
        key
        for key, dot in found
        if key not in known and not (dot and any(name.startswith(f"{key}.") for name in known))
    ]


def test_control_a_strange_key_is_found():
    text = "`--config.model.width=3`, `--config.model.`, --config.modle.width, `--config.optim.x=`"
    assert strangers(text) == ["modle.width", "optim.x"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_pages_compiles_and_imports_what_is_there(page):
    for block in filter(is_python, blocks(text_of(page))):
        compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert not absent(block)


def test_commands_run(monkeypatch, capsys):
    """Two that take no second."""
    monkeypatch.chdir(ROOT)
    assert (
        commands.main(["ablate", "--config=configs/quickstart.py", "--out=runs/x", "--list"]) == 0
    )
    assert "memory off" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["benchmarks/size.py"])
    importlib.import_module("benchmarks.size").main()
    assert re.search(r"^distinct blocks: \d\d+$", capsys.readouterr().out, re.MULTILINE)
