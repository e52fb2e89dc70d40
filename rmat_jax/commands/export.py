"""Writes the weights of a checkpoint, for other programs or for `import`.

    python -m rmat_jax export --workdir=runs/quickstart --out=hub/quickstart/
    python -m rmat_jax export --workdir=runs/quickstart --out=quickstart.safetensors
    python -m rmat_jax export --workdir=runs/mine --out=half.safetensors --dtype=bfloat16

A path that ends in / or has no suffix becomes a folder for the model hub. PyTorch's library
transformers loads it with `AutoModelForCausalLM.from_pretrained(PATH, trust_remote_code=True)`,
without JAX. Any other path becomes one safetensors file, with config and tokenizer. docs/export.md
describes both.
"""

import argparse
from pathlib import Path

from rmat_jax import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_path(parser, "--workdir", "DIR", "the folder of a training run")
    flags.add_step(parser)
    parser.add_argument(
        "--out",
        "--file",
        required=True,
        type=_folder_or_file,
        metavar="PATH",
        help="the folder or the file to write; older files of the same names are replaced",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="the type of the weights in the file; without it the type in the checkpoint",
    )


def main(args: argparse.Namespace) -> None:
    path, is_folder = args.out
    if is_folder:
        from rmat_jax.interop.hub import export_folder as export
    else:
        from rmat_jax.interop.convert import export_weights as export

    print(f"written: {export(args.workdir, path, args.dtype, args.step)}")


def _folder_or_file(text: str) -> tuple[Path, bool]:
    """Reads a path, and whether it means a folder."""
    path = flags.folder(text)
    return path, text.endswith("/") or path.is_dir() or not path.suffix
