"""Times models with random weights, beside models that remember in other ways.

    python -m rmat_jax bench stream --json=stream.json --plot=stream.png
    python -m rmat_jax bench stream --json=large.json --config=configs/enwik8.py --profile
    taskset -c 0 python -m rmat_jax bench stream --json=one_core.json --contexts=1024,8192

`stream` measures the time of a token, and the bytes of state, against the number of tokens that
were read before. It compares with a transformer that attends to all of them (the same code), and
with GPT-2 where Hugging Face transformers is installed.
"""

import argparse
import shlex

from rmat_jax import flags
from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.files import check_writable, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the benchmark; there is one, stream")
    flags.add_path(parser, "--json", "FILE", "the JSON file for every number")
    parser.add_argument(
        "--plot",
        type=flags.folder,
        metavar="FILE",
        help="a file for the figure, as PNG, SVG or PDF",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a file of configs/ whose model is timed; without it the default model",
    )
    parser.add_argument(
        "--contexts",
        metavar="N[,N]",
        help="the tokens read before (default 512,1024,4096,8192,16384)",
    )
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="the tokens that are timed at once (default 64)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="the number of samples of every model at every context (default 15)",
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where the time of one of our tokens goes"
    )


def main(args: argparse.Namespace) -> None:
    if args.name != "stream":
        raise UserError(f"there is no benchmark {args.name!r}; the one there is: stream")
    check_writable(args.json, args.plot)
    if args.plot and args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot={args.plot} must end in .png, .svg or .pdf")
    config = flags.load_config(args.config).model if args.config else RMATConfig()

    from rmat_jax.bench.plot import plot
    from rmat_jax.bench.stream import parse_contexts, stream

    given = {"tokens": args.tokens, "rounds": args.rounds}
    given = {name: value for name, value in given.items() if value is not None}
    if args.contexts is not None:
        given["contexts"] = parse_contexts(args.contexts)
    command = shlex.join(["python", "-m", "rmat_jax", *args.typed])
    report = stream(config, **given, profiled=args.profile, command=command)
    print(report.text())
    write_whole(args.json, report.json())
    print(f"\nwritten: {args.json}")
    if args.plot:
        plot(report, args.plot)
        print(f"written: {args.plot}")
