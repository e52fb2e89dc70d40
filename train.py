"""Trains a model; the same command run again resumes by itself.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart python train.py
    --config=configs/quickstart.py --workdir=runs/mine --config.data.path=my_texts/
    --config.steps=5000

    srun python train.py --config=configs/pg19_150m.py --workdir=/shared/run     on every host: see docs/pods.md

Any key of the config can be set: --config.model.chunk_len=256. `rmat_jax/config.py` lists them with
their defaults.
"""

import sys

from rmat_jax import flags


def main() -> int:
    parser = flags.Parser(prog="train.py", description=__doc__)
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="a file of configs/, or your own"
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=flags.folder,
        metavar="DIR",
        help="checkpoints, metrics and samples",
    )
    parser.add_argument(
        "--until", type=int, metavar="STEP", help="save and stop after this step; resumed later"
    )
    meeting = parser.add_argument_group(
        "several processes", "found by themselves on TPU pods, Slurm and Open MPI"
    )
    meeting.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens; the same for all"
    )
    meeting.add_argument("--num_processes", type=int, metavar="N", help="1: do not look for others")
    meeting.add_argument("--process_id", type=int, metavar="I", help="0..N-1, another for each")
    meeting.add_argument(
        "--start_timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="to wait for all; default %(default)s",
    )
    args, overrides = parser.parse_known_args()
    config = flags.load_config(args.config, overrides)

    # after the flags: a typo should not wait for JAX
    from rmat_jax.train import loop, processes

    processes.connect(args.coordinator, args.num_processes, args.process_id, args.start_timeout)
    return processes.run(lambda: loop.run(config, args.workdir, until=args.until))


if __name__ == "__main__":
    sys.exit(flags.run(main))
