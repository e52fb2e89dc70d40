"""Trains a model. `rmat_jax/commands/train.py` has the flags, and an example."""

import sys

from rmat_jax import commands, flags
from rmat_jax.commands import train


def main() -> int:
    """Runs the command with the arguments of this process, and returns its exit code."""
    return commands.run_alone(train, prog="train.py")


if __name__ == "__main__":
    sys.exit(flags.run(main))
