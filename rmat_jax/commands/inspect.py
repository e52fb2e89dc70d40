"""Shows what a model does with its memory while it reads one text.

    python -m rmat_jax inspect --workdir=runs/quickstart --text=my_program.py --out=look

The text may have any length. The report is inspect.md, with figures: the weights of the branches,
the gates, how long entries stay, and which slots are read. text.html is the text itself, coloured
where the memory changed the prediction.
"""

import argparse

from rmat_jax import flags
from rmat_jax.progress import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_path(parser, "--workdir", "DIR", "the folder of a training run")
    flags.add_step(parser)
    flags.add_path(parser, "--text", "FILE", "the text, which is read as one document")
    flags.add_path(parser, "--out", "DIR", "the folder for inspect.md, its figures and text.html")


def main(args: argparse.Namespace) -> None:
    from rmat_jax.evals.look.look import inspect

    report = inspect(args.workdir, args.text, args.out, args.step)
    tell(report.read_text("utf-8", "replace").partition("\n## ")[0].strip())
    print(f"\nwritten: {report}")
