"""Reads the command line: flags, the keys of a Config, and bad input as one clear line.

May import: config, errors, files, progress, absl, ml_collections.
"""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import functools
import io
import os
import runpy
import signal
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from absl import flags as absl_flags
from ml_collections import config_dict, config_flags

from rmat_jax.config import (
    Config,
    Local,
    Memory,
    OptimConfig,
    RMATConfig,
    from_dict,
    to_dict,
    typed,
    unused,
)
from rmat_jax.errors import EXTRAS, UserError, install
from rmat_jax.files import cache_folder
from rmat_jax.progress import drop_stdout, say

# the keys whose defaults follow other keys
_FOLLOWING = {
    "model.mlp_width": int,
    "model.local.window": int,
    "model.memory.slots": int,
    "model.memory.writes": int,
    "model.memory.gate_bias": float,
    "model.memory.key_bias": float,
    "model.chunks_at_once": int,
    "optim.beta1": float,
    "optim.beta2": float,
}


def defaults(
    model: RMATConfig | None = None, optim: OptimConfig | None = None
) -> config_dict.ConfigDict:
    """Every key of Config with its default; a file in configs/ starts from this.

    Setting a key that Config does not have is an error. A size that is not set is empty, and
    follows the width or the chunk. A branch that is off keeps its keys, for those who switch it on.

    Args:
        model: the defaults of the keys of `model`; None: RMATConfig().
        optim: the defaults of the keys of `optim`; None: OptimConfig().
    """
    model, optim = model or RMATConfig(), optim or OptimConfig()
    local, memory = model.local or Local(), model.memory or Memory()
    groups = {"model": model, "model.local": local, "model.memory": memory, "optim": optim}
    mine = to_dict(model) | {"local": to_dict(local), "memory": to_dict(memory)}
    values = to_dict(Config()) | {"model": mine, "optim": to_dict(optim)}
    # types are checked by `from_dict`, which names keys as they are typed
    result = config_dict.ConfigDict(values, type_safe=False)
    for key, kind in _FOLLOWING.items():
        group, _, name = key.rpartition(".")
        # the value of a key that is not set
        bare = dataclasses.replace(groups[group], **{name: None})
        bare = bare.sized(model.chunk_len) if group in ("model.local", "model.memory") else bare
        found = functools.reduce(lambda part, name: part[name], group.split("."), result)
        if found[name] in (None, getattr(bare, name)):
            found[name] = config_dict.placeholder(kind)
    return result.lock()


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


def load_config(path: str, overrides: Sequence[str] = (), own: Sequence[str] = ()) -> Config:
    """Runs `get_config()` of a Python file, sets keys of the result, and checks it.

    Args:
        path: the file, or the name of a config of the package, such as quickstart.
        overrides: arguments `--config.section.key=value`.
        own: the names of the command's own flags, to suggest one for a misspelt argument.

    Raises:
        UserError: the file is missing or fails, an override names no key of a config or has no
            effect, or a value has the wrong type or breaks a rule.
    """
    return _changed(_run_file(_config_file(path))[0], overrides, own)


def load_stages(path: str, overrides: Sequence[str] = (), own: Sequence[str] = ()) -> list[Config]:
    """Loads a config for each stage of a curriculum, as `load_config` does.

    The file's `get_stages()` returns a list with the keys that each stage sets, such as
    `{"chunks_per_step": 8, "steps": 600}`. The overrides hold in every stage. A file without
    `get_stages()` has one stage.

    Args:
        path, overrides, own: as for `load_config`.

    Raises:
        UserError: as for `load_config`, or `get_stages()` returns anything but a list of dicts.
    """
    path = _config_file(path)
    changes = [
        [f"--config.{key}={typed(value)}" for key, value in stage.items()]
        for stage in _run_file(path)[1]
    ]
    return [_changed(_run_file(path)[0], [*change, *overrides], own) for change in changes]


def _changed(found: config_dict.ConfigDict, overrides: Sequence[str], own: Sequence[str]) -> Config:
    """Sets keys of a config, and checks it."""
    known = _dotted(defaults().to_dict())
    for override in overrides:
        _check_override(override, known, own)
    values = absl_flags.FlagValues()
    argv = ["", *overrides]
    config_flags.DEFINE_config_dict("config", found, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except absl_flags.Error as error:
        raise UserError(str(error).replace("\n", " ")) from error
    result = values.config.to_dict()
    config = from_dict(Config, result)
    _check_effects(overrides, result)
    return config


def _config_file(path: str) -> str:
    """Finds the file that a path or a name means. Raises UserError where there is none."""
    if Path(path).is_file():
        return path
    if "/" in path or path.endswith(".py"):
        folder = Path(path).parent
        names = sorted(map(str, folder.glob("*.py"))) if folder.is_dir() else []
    else:
        here = Path(__file__).parent
        # in a checkout the configs lie beside the package
        folder = next((x for x in (here / "configs", here.parent / "configs") if x.is_dir()), here)
        if (folder / f"{path}.py").is_file():
            return str(folder / f"{path}.py")
        names = sorted(file.stem for file in folder.glob("*.py") if folder != here)
    near = difflib.get_close_matches(path, names, n=1) or names
    raise UserError(
        f"config file {path!r} is not there" + (f"; there is {', '.join(near)}" if near else "")
    )


def _run_file(path: str) -> tuple[config_dict.ConfigDict, list[dict[str, Any]]]:
    """Calls `get_config()` and `get_stages()` of a Python file. Any failure of the file becomes a
    UserError.
    """
    try:
        names = runpy.run_path(path)
        found = names.get("get_config", lambda: None)()
        stages = names.get("get_stages", lambda: [{}])()
    except UserError:
        raise
    except BaseException as error:
        # even an exit or a KeyboardInterrupt
        lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f", line {lines[-1].lineno}," if lines else ""
        reason = " ".join(str(error).split())
        raise UserError(
            f"config file {path!r}{where} failed: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(found, config_dict.ConfigDict):
        raise UserError(
            f"config file {path!r} must have get_config(), which returns flags.defaults() with "
            f"some keys changed; it returns {type(found).__name__}"
        )
    if not (stages and isinstance(stages, list) and all(isinstance(x, dict) for x in stages)):
        raise UserError(
            f"get_stages() of config file {path!r} must return a list of dicts, such as "
            f'[{{"chunks_per_step": 8}}, {{"chunks_per_step": 64}}]; it returns {stages!r}'
        )
    return found, stages


def _check_effects(overrides: Sequence[str], values: Mapping[str, Any]) -> None:
    for override in overrides:
        name = override.partition("=")[0].removeprefix("--config.")
        for key, reason in unused(values).items():
            if name == key or name.startswith(f"{key}."):
                setting, _, value = reason.partition("=")
                way = f"give another {setting} than {value}"
                if setting == "model.branches":
                    way = f"add {key.removeprefix('model.')} to {setting}"
                raise UserError(f"{override} has no effect with {reason}; drop it, or {way}")


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns the config with some keys changed. Sizes that follow others in it still do.

    Args:
        config: the config, which is not modified.
        changes: a value for each key, such as {"model.memory.gate": "none"}.

    Raises:
        UserError: no config has the key, the key has no effect, or a value breaks a rule.
    """
    start = defaults(config.model, config.optim).to_dict()
    values = to_dict(config) | {"model": start["model"], "optim": start["optim"]}
    for key, value in changes.items():
        *path, last = key.split(".")
        part = values
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        if not isinstance(part, dict) or last not in part or isinstance(part[last], dict):
            raise UserError(f"no config has the key {key!r}; see rmat_jax/config.py")
        part[last] = value
    for off, reason in unused(values).items():
        for key in changes:
            if f"{key}.".startswith(f"{off}."):
                raise UserError(f"{key}={typed(changes[key])} has no effect with {reason}")
    return from_dict(Config, values)


def add_fields(
    parser: argparse.ArgumentParser, kind: type, texts: Mapping[str, tuple[str, str]]
) -> None:
    """Adds a flag for every field of a dataclass, with the field's own type and default.

    A field whose default is an empty tuple becomes a flag that may be given several times.

    Args:
        parser: the parser to add the flags to.
        kind: the dataclass.
        texts: the placeholder and the help text of each field. `%(default)s` in a text stands for
            the default.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        metavar, text = texts[field.name]
        how: dict[str, Any] = {"default": field.default, "type": _scalar(hints[field.name])}
        if field.default == ():
            how = {"default": [], "action": "append"}
        parser.add_argument(f"--{field.name}", metavar=metavar, help=text, **how)


def _scalar(hint: Any) -> type:
    """Finds int, float or str in a hint such as `int | None`."""
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if kind in (int, float, str)]
    return kinds[0] if kinds else str


def fields_of(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Returns the values of the flags that `add_fields` made of a dataclass, by field."""
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(kind)}


def folder_or_bucket(text: str) -> Path | str:
    """Reads a path, or the address of a folder in a bucket: gs://NAME/FOLDER."""
    if not text.startswith("gs://"):
        return folder(text)
    if not text.removeprefix("gs://").strip("/"):
        raise argparse.ArgumentTypeError(f"{text} names no bucket; write gs://NAME/FOLDER")
    return text


def folder(text: str) -> Path:
    """Reads a path, and expands its ~.

    Not every shell expands the ~ of --workdir=~/runs.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; give one, such as .")
    if "\0" in text or any(len(os.fsencode(part)) > 255 for part in Path(text).parts):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}... is no path: a name has up to 255 bytes, none of them 0; shorten it"
        )
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address, not a path; copy the folder here, or mount the bucket "
            "(gcsfuse, s3fs) and give the mount's path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; write the path in full") from None


def add_path(parser: argparse.ArgumentParser, name: str, metavar: str, help: str, **more) -> None:
    """Adds a flag that takes a path, and is required unless `required=False`."""
    more = {"required": True, "type": folder, "metavar": metavar, "help": help} | more
    parser.add_argument(name, **more)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the flag --config for a command that needs an experiment."""
    text = "a file of configs/ or its name, such as quickstart, or a file of your own"
    parser.add_argument("--config", required=True, metavar="FILE", help=text)


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that chooses one of a run's checkpoints."""
    parser.add_argument(
        "--step",
        type=_step,
        metavar="N",
        help="the step of the checkpoint to use; best: the one with the lowest held-out loss "
        "(default: the newest)",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds the flag for devices that read a long text together."""
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="the number of devices that read a long text together (default %(default)s)",
    )


def _step(text: str) -> int | str:
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} must be the number of a step, or best")
    return text if text == "best" else int(text)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds the flag --workdir for a command that uses trained weights from any source."""
    text = "the folder of a training run, or a folder or file that `export` wrote "
    text += "(default: a small model that comes with the package)"
    add_path(parser, "--workdir", "PATH", text, required=False)


def tell_weights(workdir: Path | None) -> None:
    """Says on standard error that the small model is used, where no weights are given."""
    if workdir is None:
        say(
            "no --workdir: this is the small model that comes with rmat_jax, trained for minutes "
            "on the source code of the Python standard library"
        )


def whole_numbers(text: str) -> list[int]:
    """Reads a list of numbers, such as the one in --seeds=0,1,2."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} must be whole numbers, such as 0,1,2") from None


def stdin() -> BinaryIO:
    """Returns standard input. Raises UserError where the shell has closed it."""
    if sys.stdin is None:
        raise UserError("standard input is closed; give it text, or a file name instead of -")
    return sys.stdin.buffer


def stdout() -> TextIO:
    """Returns standard output. Raises UserError where the shell has closed it."""
    if sys.stdout is None:
        raise UserError("standard output is closed; leave it open, or write to /dev/null")
    return sys.stdout


class Parser(argparse.ArgumentParser):
    """Parses arguments as argparse does, but its errors are UserErrors.

    Help shows a description as it stands.
    """

    def __init__(self, *args, **kwargs):
        kwargs |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """Parses as argparse does, but refuses `--flag=--`, whose value argparse would drop."""
        args = sys.argv[1:] if args is None else args
        for argument in args:
            if argument.startswith("--") and argument.endswith("=--"):
                self.error(f"{argument} has no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        raise UserError(f"{message}; --help shows an example")


def interrupts_raise() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt from here on, since there is something to lose.

    Until then Ctrl-C ends `python -m rmat_jax` at once. It stays ignored where the shell ignores
    it.
    """
    # Outside the main thread signals are not ours.
    with contextlib.suppress(ValueError):
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def run(main: Callable[[], int | None]) -> int:
    """Calls a command and returns its exit code: what the command returns, or 0 for None.

    Bad input prints one line on standard error, and gives the code 2. Ctrl-C gives 130.

    The programs that JAX compiles are kept between runs, so that a restart is quick.
    """
    # JAX reads this when it is first imported. Containers may have no home, and so no cache.
    if (cache := cache_folder("")) is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a character that the terminal cannot show must not end the command
        sys.stdout.reconfigure(errors="replace")
    try:
        return main() or 0
    except UserError as error:
        return _refuse(f"{error}")
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _refuse(f"{package} is not installed; run: {install(package)}")
    except BrokenPipeError:
        # The reader has closed the pipe.
        drop_stdout()
        return 0
    except OSError as error:
        # The fault lies in the machine, not in the program: a disk, a limit, a permission.
        remedy = "raise `ulimit -n`" if error.errno in (errno.EMFILE, errno.ENFILE) else "mend that"
        what = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{what}{error.strerror or error}; {remedy}, and give the same command")


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    After bad input it ends at once: threads that a failed save has left in libraries could hang, or
    print more errors.
    """
    if code == 2:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _refuse(message: str) -> int:
    """Prints one line, and returns the exit code of bad input."""
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    # Standard output may be closed.
    with contextlib.suppress(AttributeError):
        try:
            sys.stdout.flush()
        except OSError:
            # The disk is full, so nothing more can be written.
            drop_stdout()
    return 2
