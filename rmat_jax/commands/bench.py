"""Times our model and others, all with random weights.

    python -m rmat_jax bench train --json=train.json --plot=train.png
    python -m rmat_jax bench train --json=long.json --lanes=1 --lengths=2048,65536 --models=ours
    python -m rmat_jax bench attention --json=attention.json
    python -m rmat_jax bench stream --json=stream.json --plot=stream.png
    python -m rmat_jax bench stream --json=large.json --config=configs/enwik8.py --profile
    taskset -c 0 python -m rmat_jax bench stream --json=one_core.json --contexts=1024,8192

`train` measures the time of a training step against the tokens that it reads. It compares with the
same code chunk after chunk, with full attention, with a Transformer-XL, and with the PyTorch models
that are installed. `attention` times each way to compute one layer's attention, with the obvious
code for comparison.

`stream` measures the time of a token, and the bytes of state, against the number of tokens read
before it. It compares with a transformer that attends to all of them (the same code), and with
GPT-2 where Hugging Face transformers is installed.
"""

import argparse
import shlex

from rmat_jax import flags
from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.files import check_writable, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the benchmark: train, attention or stream")
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
        "--lengths",
        metavar="N[,N]",
        help="train, attention: the numbers of tokens in a lane (default 2048,16384)",
    )
    parser.add_argument(
        "--lanes", metavar="N[,N]", help="train: the numbers of lanes (default 1,4)"
    )
    parser.add_argument(
        "--models", metavar="NAME[,NAME]", help="train: the models to time (default all)"
    )
    parser.add_argument(
        "--contexts",
        metavar="N[,N]",
        help="stream: the numbers of tokens read before (default 512,1024,4096,8192,16384)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="stream: the number of tokens that are timed at once (default 64)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="the number of samples of every figure (default 15; train: 5)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="stream: break down the time of a token of our model",
    )


# the flags that a benchmark takes, besides those that all take
OWN = {
    "train": ("lengths", "lanes", "models", "plot"),
    "attention": ("lengths",),
    "stream": ("contexts", "tokens", "profile", "plot"),
}


def main(args: argparse.Namespace) -> None:
    if args.name not in OWN:
        raise UserError(f"there is no benchmark {args.name!r}; there is {', '.join(OWN)}")
    for flag in {name for names in OWN.values() for name in names} - {*OWN[args.name]}:
        if getattr(args, flag):
            users = ", ".join(name for name, names in OWN.items() if flag in names)
            raise UserError(f"--{flag} has no effect on bench {args.name}; it is for {users}")
    check_writable(args.json, args.plot)
    if args.plot and args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot={args.plot} must end in .png, .svg or .pdf")
    # recomputing the layers is faster on CPUs too, since less goes through memory
    config = RMATConfig(vocab_size=256, remat="block") if args.name == "train" else RMATConfig()
    if args.config:
        config = flags.load_config(args.config).model

    from rmat_jax.bench import plot
    from rmat_jax.bench.attention import bench_attention
    from rmat_jax.bench.stream import parse_numbers, stream
    from rmat_jax.bench.train import bench_train

    given = {name: getattr(args, name) for name in ("tokens", "rounds")}
    given |= {
        name: parse_numbers(name, getattr(args, name))
        for name in ("contexts", "lengths", "lanes")
        if getattr(args, name) is not None
    }
    if args.models:
        given["models"] = [name.strip() for name in args.models.split(",")]
    given = {name: value for name, value in given.items() if value is not None}
    given["command"] = shlex.join(["python", "-m", "rmat_jax", *args.typed])
    if args.name == "stream":
        report = stream(config, **given, profiled=args.profile)
    else:
        report = {"train": bench_train, "attention": bench_attention}[args.name](config, **given)
    print(report.text())
    write_whole(args.json, report.json())
    print(f"\nwritten: {args.json}")
    if args.plot:
        {"train": plot.plot_train, "stream": plot.plot}[args.name](report, args.plot)
        print(f"written: {args.plot}")
