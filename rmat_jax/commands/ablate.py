"""Trains variants of one config with several seeds, and compares them.

    python -m rmat_jax ablate --config=configs/quickstart.py --out=runs/ablation --seeds=0,1,2
    python -m rmat_jax ablate --config=configs/novels.py --out=runs/baselines --variants=baselines
    python -m rmat_jax ablate --config=configs/recall.py --out=runs/gate \\
        --variants=queue --vary="model.memory.gate_bias=-4;-2;0"
    python -m rmat_jax ablate --config=configs/quickstart.py --out=runs/mine \\
        --variant="deep: model.num_layers=6"

All variants have the same tokens and optimiser, and by default the same number of parameters.
--variants takes `grid` (each option that the base uses, changed alone), `baselines` (the models to
compare with), or names out of these, separated by commas. It defaults to the grid, or to none with
--variant or --vary. Every key of the config can be set, as in --config.data.path=books/.

After Ctrl-C the same command resumes. Finished runs under --out are not trained again, not even by
another command.
"""

import argparse
import shlex

from rmat_jax import flags

SETS_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="the config of the base, a file of configs/ or one of your own",
    )
    flags.add_path(parser, "--out", "DIR", "the folder for the runs, report.md and its figures")
    parser.add_argument(
        "--variants", metavar="NAME[,NAME]", help="the variants to train (default grid)"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME: KEY=VALUE ...",
        help="a variant of your own; may be given several times",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE;VALUE",
        help="a key and its values, with a variant for each; may be given several times",
    )
    parser.add_argument(
        "--seeds",
        type=flags.whole_numbers,
        default="0",
        metavar="N[,N]",
        help="the seeds that every variant is trained with (default %(default)s)",
    )
    parser.add_argument(
        "--parameters",
        choices=("equal", "free"),
        default="equal",
        help="equal: widen or narrow the MLP to keep the number of parameters; free: keep the MLP "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="the number of runs at a time, which share the cores (default %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="show the variants and train nothing")


def main(args: argparse.Namespace) -> int:
    config = flags.load_config(args.config, args.overrides, args.own)

    from rmat_jax import ablate
    from rmat_jax.data.tokenizer_files import follow_tokenizer

    config = follow_tokenizer(config)
    names = args.variants
    if names is None:
        names = "" if args.variant or args.vary else "grid"
    variants = ablate.named(config, names)
    for text in args.vary:
        variants += ablate.parse_vary(text)
    variants += map(ablate.parse_variant, args.variant)
    if args.list:
        print("\n".join(f"{variant.name:24s} {variant}" for variant in variants))
        return 0
    command = shlex.join(["python", "-m", "rmat_jax", *args.typed])
    equal = args.parameters == "equal"
    code = ablate.ablate(
        config, args.out, variants, args.seeds, equal=equal, jobs=args.jobs, command=command
    )
    print(f"written: {args.out / 'report.md'}")
    return code
