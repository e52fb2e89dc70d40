"""Says what a training step would take on accelerators that you do not have.

    python -m rmat_jax plan --config=configs/pg19_1b.py --topology=v5e:16x16 --json=plan.json
    python -m rmat_jax plan --config=configs/pg19_1b.py --topology=v5p:4x4x4 --config.mesh.fsdp=64
    python -m rmat_jax plan --config=configs/pg19_150m.py --topology=gpu:h100:16 --advise

It prints the memory, the FLOPs and the bytes that devices exchange. Every key of the config can be
set. If the step does not fit, the command looks for changes with which it would, and prints them.

For TPU slices (v4, v5e, v5p, v6e) it compiles the real train step. That takes minutes and
`pip install "jax[tpu]"`, but no TPU. For GPUs (a100-40, a100-80, h100, h200, b200) it computes the
figures without a compiler, and marks them as arithmetic.
"""

import argparse
import os

from rmat_jax import flags
from rmat_jax.files import check_writable, write_whole
from rmat_jax.progress import say

SETS_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="the accelerators, such as v5e:16x16, v5p:4x4x4 or gpu:h100:8",
    )
    parser.add_argument(
        "--advise", action="store_true", help="say what would take less, even if the step fits"
    )
    parser.add_argument(
        "--json", type=flags.folder, metavar="FILE", help="a JSON file for every number"
    )


def main(args: argparse.Namespace) -> None:
    check_writable(args.json)
    config = flags.load_config(args.config, args.overrides, args.own)
    # JAX reads these when it is imported. Accelerators that are there are not touched, and programs
    # for accelerators that are not there cannot be taken from the cache (jax 0.10.2).
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}

    from rmat_jax.data.tokenizer_files import follow_tokenizer
    from rmat_jax.plan import plan

    config = follow_tokenizer(config)
    report = plan(config, args.topology, advise=args.advise, progress=say)
    print(report.text())
    if args.json:
        write_whole(args.json, report.json())
        print(f"written: {args.json}")
