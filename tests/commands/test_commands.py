"""The table of commands: each has a help that reads well, and help starts no JAX."""

import argparse
import dataclasses
import os
import subprocess
import sys

import pytest

from rmat_jax import commands, flags
from rmat_jax.errors import UserError
from rmat_jax.evals.options import Options
from rmat_jax.infer import Sampling
from tests.train.test_resume import CONFIG, ROOT, small_flags

# one device, and quick to compile
FAST = "--xla_backend_optimization_level=0"


def run(*arguments, **environment):
    """What a process printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def actions(module) -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    module.add_arguments(parser)
    return parser._actions


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_has_an_example_and_explains_every_flag(name, capsys):
    with pytest.raises(SystemExit) as end:
        commands.main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    module = commands.COMMANDS[name]
    assert f"rmat_jax {name}" in text and text.count("--workdir=") + text.count("--config=")
    assert max(map(len, text.splitlines())) <= 100
    for action in actions(module):
        assert action.help and action.help[0].islower() and not action.help.endswith(".")
        assert not action.help.startswith(("of ", "that ", "gets ")), action.help


def test_every_command_is_listed(capsys):
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {name}" in text for name in commands.COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["evaluate", "--help"]])
def test_help_starts_no_jax(arguments):
    program = f"""
import sys
from rmat_jax import commands
try:
    commands.main({arguments})
except SystemExit:
    pass
print("jax" in sys.modules)
"""
    assert run("-c", program).endswith("False\n")


@pytest.mark.parametrize("name, kind", [("generate", Sampling), ("evaluate", Options)])
def test_flags_have_the_defaults_of_their_dataclass(name, kind):
    """A run of the command without a flag is one with the dataclass's own defaults."""
    found = {action.dest: action.default for action in actions(commands.COMMANDS[name])}
    for field in dataclasses.fields(kind):
        assert (found[field.name] or None) == (field.default or None)


def test_a_field_gives_its_flag_a_type():
    @dataclasses.dataclass
    class Kind:
        count: int | None = None
        share: float = 0.5
        name: str | None = None
        words: tuple[str, ...] = ()

    parser = flags.Parser()
    flags.add_fields(parser, Kind, {field.name: ("X", "x") for field in dataclasses.fields(Kind)})
    args = parser.parse_args(["--count=3", "--share=1", "--words=a", "--words=b"])
    assert flags.fields_of(args, Kind) == {
        "count": 3,
        "share": 1.0,
        "name": None,
        "words": ["a", "b"],
    }
    assert isinstance(args.share, float)


def test_train_is_a_command_and_a_program(tmp_path, monkeypatch, capsys):
    """`python -m rmat_jax train` makes the run, and `train.py` finds it finished up to there."""
    text = tmp_path / "text.txt"
    text.write_text("A line of text, and another.\n" * 400)
    given = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *small_flags(text), "--until=1"]
    run("-m", "rmat_jax", "train", *given, XDG_CACHE_HOME=str(tmp_path), XLA_FLAGS=FAST)
    step = (tmp_path / "run" / "checkpoints" / "1").stat().st_mtime_ns
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["train.py", *given])
    assert flags.run(commands.train_alone) == 0
    assert (tmp_path / "run" / "checkpoints" / "1").stat().st_mtime_ns == step


def test_the_help_of_the_program_train(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        commands.train_alone()
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py") and "    python train.py --config=" in text
    assert "--coordinator" in text and "docs/pods.md" in text


def test_an_account_without_a_home_needs_no_cache():
    code = (
        "import os, pwd, runpy, sys\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "os.environ.pop('HOME', None), os.environ.pop('XDG_CACHE_HOME', None)\n"
        "sys.argv = ['train.py', '--help']\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    assert "Ctrl-C saves the run" in run("-c", code)


def test_a_home_that_is_not_there_is_one_clear_line(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(argparse.ArgumentTypeError, match="write the path in full"):
        flags.folder("~/runs")


@pytest.mark.parametrize(
    ("path", "message"), [("", "is empty"), ("a\0b", "is no path"), ("x" * 300, "is no path")]
)
def test_what_is_no_path_is_refused(path, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        flags.folder(path)
    assert flags.folder("x" * 255)


# of each command that reads a run, what it needs besides
READERS = {
    "generate": ["--prompt=a"],
    "chat": [],
    "score": [__file__],
    "evaluate": ["--out=report"],
    "inspect": [f"--text={__file__}", "--out=look"],
    "export": ["--file=weights.safetensors"],
    "crosscheck": [],
    "serve": ["--port=0"],
}


@pytest.mark.parametrize("name", READERS)
def test_a_command_takes_the_step_it_is_told(name, workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [name, f"--workdir={workdir}", *READERS[name]]
    with pytest.raises(UserError, match="has no step 7, only 1; train first, or give"):
        commands.main([*command, "--step=7"])
    # one that was stopped before its first evaluation
    with pytest.raises(UserError, match="no step was evaluated; give one of --step=1, or train"):
        commands.main([*command, "--step=best"])
    assert not list(tmp_path.iterdir())


def test_every_command_that_reads_a_run_takes_a_step():
    with_workdir = {
        name
        for name, module in commands.COMMANDS.items()
        if any("a training run" in (action.help or "") for action in actions(module))
    }
    assert with_workdir == READERS.keys()
