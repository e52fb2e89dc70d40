"""Trains a model; the same command run again resumes by itself.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart
    python train.py --config=configs/quickstart.py --workdir=runs/mine --config.data.path=my_texts/ --config.steps=5000

Any key of the config can be set: --config.model.chunk_len=256. `rmat_jax/config.py` lists them with their defaults.
"""

import sys

from rmat_jax import flags


def main() -> int:
    parser = flags.Parser(prog="train.py", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="a file of configs/, or your own")
    parser.add_argument(
        "--workdir", required=True, type=flags.folder, metavar="DIR", help="checkpoints, metrics and samples"
    )
    parser.add_argument("--until", type=int, metavar="STEP", help="save and stop after this step; resumed later")
    args, overrides = parser.parse_known_args()
    config = flags.load_config(args.config, overrides)

    from rmat_jax import loop  # after the flags: a typo should not wait for JAX

    return loop.run(config, args.workdir, until=args.until)


if __name__ == "__main__":
    sys.exit(flags.run(main))
