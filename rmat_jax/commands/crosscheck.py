"""Compares the results of JAX with those of PyTorch, or with a dump.

    python -m rmat_jax crosscheck --out=crosscheck.json
    python -m rmat_jax crosscheck --workdir=runs/quickstart --dtype=float64
    python -m rmat_jax crosscheck --torch=my_package.my_port:factory
    python -m rmat_jax crosscheck --dump=golden.safetensors
    python -m rmat_jax crosscheck --against=golden.safetensors
    python -m rmat_jax crosscheck --against=golden.safetensors --framework=torch

The first example checks a small model with random weights, the second a trained one, and the third
a port of your own instead of our reference. The fourth writes all results of JAX to one file; the
last two compare with that file, on another machine or version. docs/crosscheck.md says what is
compared. The exit code is 1 if a result is beyond its tolerance.
"""

import argparse

from rmat_jax import flags
from rmat_jax.errors import UserError
from rmat_jax.files import check_writable, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=flags.folder, metavar="FILE", help="a JSON file for every comparison"
    )
    parser.add_argument(
        "--workdir",
        type=flags.folder,
        metavar="DIR",
        help="the folder of a training run whose weights are checked",
    )
    flags.add_step(parser)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a file of configs/ whose model is checked, with random weights",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="the seed of weights and inputs (default 0)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="the number of optimiser steps (default 10)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="the type of all numbers (default %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("highest", "default"),
        default="highest",
        help="the precision of JAX's matrix products (default %(default)s)",
    )
    parser.add_argument(
        "--torch", metavar="MODULE:FUNCTION", help="a port to check instead of the reference"
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--dump", type=flags.folder, metavar="FILE", help="a file for JAX's results in float64"
    )
    modes.add_argument(
        "--against", type=flags.folder, metavar="FILE", help="a dump to compare with"
    )
    parser.add_argument(
        "--framework",
        choices=("jax", "torch"),
        help="the framework that is compared with the dump (default jax)",
    )


def main(args: argparse.Namespace) -> int:
    made = {name: getattr(args, name) for name in ("workdir", "step", "config", "seed", "steps")}
    made = {name: value for name, value in made.items() if value is not None}
    if args.against and made:
        given = " and ".join(f"--{name}" for name in made)
        raise UserError(
            f"{given} cannot go with --against: the dump holds the model and its inputs"
        )
    if args.framework and not args.against:
        raise UserError(
            "--framework goes with --against=FILE; a comparison of both needs no such flag"
        )
    if args.torch and (args.dump or args.framework == "jax"):
        raise UserError(
            "--torch names a port to be checked; it cannot go with --dump or --framework=jax"
        )
    check_writable(args.out, args.dump)

    from rmat_jax.interop import crosscheck

    if args.against:
        framework = args.framework or ("torch" if args.torch else "jax")
        report = crosscheck.replay(args.against, args.dtype, framework, args.torch, args.precision)
    else:
        if args.config:
            made["config"] = flags.load_config(args.config)
        case = crosscheck.load_case(**made)
        if args.dump:
            crosscheck.dump(case, args.dump)
            print(f"written: {args.dump}, {args.dump.stat().st_size:,} bytes")
            return 0
        report = crosscheck.crosscheck(case, args.dtype, args.torch, args.precision)
    print(report.text())
    if args.out:
        write_whole(args.out, report.json())
        print(f"written: {args.out}")
    return 0 if report.passed else 1
