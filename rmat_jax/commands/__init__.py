"""The room of commands: one module each, which reads its flags and calls one plain function.

A module has `add_arguments(parser)` and `main(args)`, and its docstring is its help. `main` returns
the exit code; None is 0. What needs JAX is imported inside functions, so that help and typos answer
at once.

Beside a command's own flags `args` holds `typed`, all arguments as they were given. A module with
`SETS_CONFIG = True` also takes the keys of a config (--config.KEY=VALUE): `overrides` holds these
arguments, and `own` the names of the command's flags, one of which a misspelt key may mean.

May import: everything.
"""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from rmat_jax import flags
from rmat_jax.commands import (
    ablate,
    bench,
    chat,
    config,
    crosscheck,
    evaluate,
    export,
    generate,
    import_,
    inspect,
    plan,
    score,
    serve,
    train,
)

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "generate": generate,
    "chat": chat,
    "serve": serve,
    "score": score,
    "evaluate": evaluate,
    "inspect": inspect,
    "ablate": ablate,
    "crosscheck": crosscheck,
    "export": export,
    "import": import_,
    "config": config,
    "plan": plan,
    "bench": bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name, and returns its exit code.

    Args:
        argv: the arguments; None: those of this process.

    Raises:
        UserError: bad input.
    """
    parser = flags.Parser(
        prog="python -m rmat_jax",
        description="Trains and uses recurrent memory-augmented transformers.",
        epilog="`python -m rmat_jax COMMAND --help` explains a command, with an example.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=flags.Parser
    )
    for name, module in COMMANDS.items():
        headline = module.__doc__.partition("\n")[0]
        command = commands.add_parser(name, help=headline, description=module.__doc__)
        module.add_arguments(command)
    typed = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(typed)
    return _call(COMMANDS[vars(args).pop("command")], parser, args, rest, typed)


def train_alone(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`, the command train as a program, and returns its exit code.

    Args:
        argv: the arguments after the program's name; None: those of this process.

    Raises:
        UserError: bad input.
    """
    parser = flags.Parser(prog="train.py", description=train.__doc__)
    train.add_arguments(parser)
    typed = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(typed)
    return _call(train, parser, args, rest, typed)


def _call(
    module: ModuleType,
    parser: flags.Parser,
    args: argparse.Namespace,
    rest: list[str],
    typed: list[str],
) -> int:
    if rest and not getattr(module, "SETS_CONFIG", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    own = [*vars(args), "help"]
    args.own, args.overrides, args.typed = own, rest, typed
    return module.main(args) or 0
