"""The commands, one module each, which reads its flags and calls one plain function.

A module has `add_arguments(parser)` and `main(args)`, and its docstring is its help. `main` returns
the exit code; None is 0. What needs JAX is imported inside functions, so that help and typos answer
at once.

Besides a command's own flags `args` holds `typed`, all arguments as they were given. A module with
`SETS_CONFIG = True` also takes the keys of a config (--config.KEY=VALUE). Then `overrides` holds
these arguments, and `own` the names of the command's flags, to suggest one for a misspelt key.

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
    prepare,
    score,
    serve,
    train,
)

COMMANDS: dict[str, ModuleType] = {
    "prepare": prepare,
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
    module, args = parse(argv)
    return module.main(args) or 0


def train_alone(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`, the command train as a program, and returns its exit code.

    Args:
        argv: the arguments after the program's name; None: those of this process.

    Raises:
        UserError: bad input.
    """
    parser = flags.Parser(prog="train.py", description=train.__doc__)
    train.add_arguments(parser)
    parser.set_defaults(command="train")
    module, args = _parsed(parser, argv)
    return module.main(args) or 0


def parse(argv: Sequence[str] | None = None) -> tuple[ModuleType, argparse.Namespace]:
    """Reads the arguments and runs nothing.

    Args:
        argv: the arguments; None: those of this process.

    Returns:
        The module of the command, and what its `main` takes.

    Raises:
        UserError: there is no such command, or it has no such flag. Keys of a config are left to
            `main`.
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
    return _parsed(parser, argv)


def _parsed(
    parser: flags.Parser, argv: Sequence[str] | None
) -> tuple[ModuleType, argparse.Namespace]:
    typed = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(typed)
    module = COMMANDS[vars(args).pop("command")]
    if rest and not getattr(module, "SETS_CONFIG", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.own, args.overrides, args.typed = [*vars(args), "help"], rest, typed
    return module, args
