"""Writes the weights of the newest checkpoint to a safetensors file, with config and tokenizer.

    python -m rmat_jax export --workdir=runs/quickstart --file=quickstart.safetensors
    python -m rmat_jax export --workdir=runs/mine --file=half.safetensors --dtype=bfloat16

`import` begins a run with such a file. docs/crosscheck.md describes the names of its tensors.
"""

import argparse

from rmat_jax import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_path(parser, "--workdir", "DIR", "the folder of a training run")
    flags.add_step(parser)
    flags.add_path(parser, "--file", "FILE", "the file to write; an older one is replaced")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="the type of the weights in the file; without it the type in the checkpoint",
    )


def main(args: argparse.Namespace) -> None:
    from rmat_jax.interop.convert import export_weights

    print(f"written: {export_weights(args.workdir, args.file, args.dtype, args.step)}")
