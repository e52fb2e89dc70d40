"""From the command line to a frozen Config; and one clear line, exit code 2, for bad input."""

import argparse
import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from absl import flags as absl_flags
from ml_collections import config_dict, config_flags

from rmat_jax.config import Config, from_dict, to_dict
from rmat_jax.errors import UserError

# Of train.py, beside the config's.
OWN_FLAGS = (
    "config",
    "workdir",
    "until",
    "coordinator",
    "num_processes",
    "process_id",
    "start_timeout",
    "help",
)


def defaults() -> config_dict.ConfigDict:
    """Every key of Config with its default: what a file in configs/ starts from. Unknown keys are
    errors.
    """
    return config_dict.ConfigDict(to_dict(Config())).lock()


def _dotted(values: dict, prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        names += _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return names


def _check_override(override: str, known: list[str], own: Sequence[str]) -> None:
    name, equals, value = override.partition("=")
    if not name.startswith("-") and name.removeprefix("config.") in known:
        name = name.removeprefix("config.")
        raise UserError(f"{override!r} lacks its dashes; write --config.{name}={value or 'VALUE'}")
    if not name.startswith("--config."):
        near = difflib.get_close_matches(name.lstrip("-"), own, n=1)
        raise UserError(
            f"unknown argument {override!r}"
            + (f"; did you mean --{near[0]}?" if near else "; --help lists them")
        )
    name = name.removeprefix("--config.")
    if name not in known:
        by_last = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
        near = by_last or difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"no config has the key {name!r}"
            + (f"; did you mean --config.{near[0]}?" if near else "")
        )
    if not equals:
        raise UserError(f"{override!r} has no value; write {override}=VALUE, without a space")


def load_config(path: str, overrides: Sequence[str] = (), own: Sequence[str] = OWN_FLAGS) -> Config:
    """Runs `get_config()` of a Python file, applies `--config.section.key=value` overrides, checks
    the result.

    `own`: the command's flags beside these, which a misspelt one may mean.

    Raises:
        UserError: a file that is missing or fails, a key that no config has, a value of the wrong
            type or against a rule.
    """
    if not Path(path).is_file():
        files = (
            sorted(str(p) for p in Path(path).parent.glob("*.py"))
            if Path(path).parent.is_dir()
            else []
        )
        near = difflib.get_close_matches(path, files, n=1) or files
        raise UserError(
            f"config file {path!r} is not there" + (f"; there is {', '.join(near)}" if near else "")
        )
    known = _dotted(to_dict(Config()))
    for override in overrides:
        _check_override(override, known, own)
    values = absl_flags.FlagValues()
    argv = ["", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        with warnings.catch_warnings():
            # its way to load
            warnings.filterwarnings(
                "ignore", message="the load_module", category=DeprecationWarning
            )
            values(argv)
        result = values.config.to_dict()
    except UserError:
        raise
    except absl_flags.Error as error:
        raise UserError(str(error).replace("\n", " ")) from error
    except Exception as error:
        # whatever the file's code raises
        raise UserError(
            f"config file {path!r} failed: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    return from_dict(Config, result)


def folder(text: str) -> Path:
    """A path as the shell's user meant it: the ~ of --workdir=~/runs is not always expanded before
    it gets here.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address, not a path; mount the bucket (gcsfuse, s3fs) and give the mount's path"
        )
    return Path(text).expanduser()


def whole_numbers(text: str) -> list[int]:
    """Of a flag such as --seeds=0,1,2."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} must be whole numbers, such as 0,1,2") from None


def stdin() -> BinaryIO:
    """Standard input. Raises UserError where the shell has closed it."""
    if sys.stdin is None:
        raise UserError("standard input is closed; give it text, or a file name instead of -")
    return sys.stdin.buffer


def stdout() -> TextIO:
    """Standard output. Raises UserError where the shell has closed it."""
    if sys.stdout is None:
        raise UserError("standard output is closed; leave it open, or write to /dev/null")
    return sys.stdout


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors, and whose help shows the docstring as it stands."""

    def __init__(self, *args, **kwargs):
        kwargs |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; --help shows an example")


def run(main: Callable[[], int | None]) -> int:
    """Calls a command and returns its exit code: 0, what it returns, or 2 with one line on bad
    input.

    Programs that it compiles are kept between runs, so that a restart is quick; JAX reads where
    when it is first imported.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmat_jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        # standard output may be closed
        with contextlib.suppress(AttributeError):
            try:
                sys.stdout.flush()
            except OSError:
                # a full disk: nothing of it is lost that could be kept
                _drop_stdout()
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of a pipe has seen enough
        _drop_stdout()
        return 0


def _drop_stdout() -> None:
    """What is still to be written goes nowhere, or Python would try again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
