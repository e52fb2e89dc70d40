"""Begins a run with weights from a folder or a safetensors file, as `export` writes them.

    python -m rmat_jax import --workdir=runs/mine --file=quickstart.safetensors
    python -m rmat_jax import --workdir=runs/mine --file=hub/quickstart/
    python -m rmat_jax import --workdir=runs/mine --file=torch.safetensors --config=configs/paper.py

`generate` works with the new workdir at once, and `train` goes on there with the same config.
"""

import argparse

from rmat_jax import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_path(
        parser, "--workdir", "DIR", "the folder for the run; it must not hold a checkpoint"
    )
    flags.add_path(parser, "--file", "PATH", "the folder or the safetensors file with the weights")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a file of configs/, for weights without a config or to train in another way",
    )


def main(args: argparse.Namespace) -> None:
    config = flags.load_config(args.config) if args.config else None

    from rmat_jax.interop.convert import import_weights

    print(f"made: {import_weights(args.workdir, args.file, config)}")
