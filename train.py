"""Trains a model. `rmat_jax/commands/train.py` has the flags, and an example."""

import os
import signal

# Until the run has something to lose, Ctrl-C ends the process on the spot: a KeyboardInterrupt
# inside an import or a compiler can do anything, vanish among it.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from rmat_jax import commands, flags  # noqa: E402
from rmat_jax.commands import train  # noqa: E402


def main() -> int:
    """Runs the command with the arguments of this process, and returns its exit code."""
    return commands.run_alone(train, prog="train.py")


if __name__ == "__main__":
    flags.leave(flags.run(main))
