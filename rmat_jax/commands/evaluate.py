"""Measures a trained model, and writes a report with plots.

    python -m rmat_jax evaluate --workdir=runs/quickstart --suite=position --out=runs/quickstart
    python -m rmat_jax evaluate --workdir=runs/mine --suite=length,recall --text=novels/ --out=far
    python -m rmat_jax evaluate --workdir=runs/mine --suite=code --code=src/ --out=report

The report is report.md, with every number in report.json. docs/evaluation.md says what each suite
measures. The suites are position, length, recall, babi, ruler, qa, summary, dialogue and code.
"""

import argparse

from rmat_jax import flags
from rmat_jax.evals.options import Options
from rmat_jax.progress import tell

OPTIONS = {
    "text": (
        "PATH",
        "a file or folder of long texts for length, recall, babi and ruler; "
        "without it they read held-out documents of the run",
    ),
    "code": (
        "PATH",
        "a file or folder of source code for the suite code; without it the suite reads held-out "
        "documents of the run",
    ),
    "max_tokens": (
        "N",
        "the longest reach, in tokens, at which length, recall, babi and ruler measure "
        "(default %(default)s)",
    ),
    "examples": (
        "N",
        "ask at most N questions for a suite, or for a cell of its table (default %(default)s)",
    ),
    "seed": ("N", "the seed of all random choices (default %(default)s)"),
    "babi": ("PATH", "a folder of bAbI's or BABILong's files, for the suite babi"),
    "ruler": (
        "PATH",
        "a file or folder of RULER's prompts for the suite ruler; without it the suite makes them",
    ),
    "qa": ("PATH", "questions on documents for the suite qa, a file of JSON lines or tfds:NAME"),
    "summary": (
        "PATH",
        "documents and summaries for the suite summary, a file of JSON lines or tfds:NAME",
    ),
    "dialogue": ("PATH", "a file or folder of dialogues for the suite dialogue, or tfds:NAME"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_path(parser, "--workdir", "DIR", "the folder of a training run")
    flags.add_step(parser)
    parser.add_argument(
        "--suite",
        default="position",
        metavar="NAME[,NAME]",
        help="the suites to measure, in the order of the report (default %(default)s)",
    )
    flags.add_path(parser, "--out", "DIR", "the folder for report.md, report.json and the plots")
    flags.add_fields(parser, Options, OPTIONS)


def main(args: argparse.Namespace) -> None:
    options = Options(**flags.fields_of(args, Options))

    from rmat_jax.evals.evaluate import evaluate

    suites = tuple(args.suite.split(","))
    report = evaluate(args.workdir, suites, args.out, options, args.step)
    tell(report.read_text("utf-8", "replace").partition("\n## ")[0].strip())
    print(f"\nwritten: {report}")
