"""python -m rmat_jax COMMAND"""

import sys

from rmat_jax import cli, flags

if __name__ == "__main__":
    sys.exit(flags.run(cli.main))
