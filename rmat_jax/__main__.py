"""python -m rmat_jax COMMAND"""

import os
import signal
import sys

# Until a command has something to lose, Ctrl-C ends the process on the spot: a KeyboardInterrupt
# inside an import or a compiler can do anything.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from rmat_jax import cli, flags  # noqa: E402

if __name__ == "__main__":
    sys.exit(flags.run(cli.main))
