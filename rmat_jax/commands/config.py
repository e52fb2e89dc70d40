"""Lists every key of the config, with its default and its meaning.

    python -m rmat_jax config
    python -m rmat_jax config --config=configs/pg19_150m.py
    python -m rmat_jax config --config=quickstart --config.model.chunk_len=128

The first example prints the defaults, the others the values of one config. Write a key after
--config. to set it in `train`, `plan` or `ablate`, as in --config.model.chunk_len=128.
"""

import argparse

from rmat_jax import flags, keys
from rmat_jax.errors import UserError

SETS_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a file of configs/, or one of your own; without it the defaults are shown",
    )


def main(args: argparse.Namespace) -> None:
    if args.config is None and args.overrides:
        raise UserError(f"{args.overrides[0]} changes nothing without a config; add --config=FILE")
    values = args.config and flags.load_config(args.config, args.overrides, args.own)
    print(keys.text(values or None), end="", file=flags.stdout())
