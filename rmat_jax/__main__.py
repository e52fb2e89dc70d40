"""`python -m rmat_jax COMMAND`, and `rmat COMMAND` where the package is installed."""

import os
import signal

# Until a command has something to lose, Ctrl-C ends the process on the spot: a KeyboardInterrupt
# inside an import or a compiler can do anything.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from rmat_jax import commands, flags  # noqa: E402


def main() -> None:
    """Runs the command that the arguments name, and ends with its exit code."""
    flags.leave(flags.run(commands.main))


def train() -> None:
    """Trains with the arguments of this process, and ends with the exit code: `train.py`."""
    flags.leave(flags.run(commands.train_alone))


if __name__ == "__main__":
    main()
