"""Trains a model; the same command resumes the run later.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart
    python train.py --config=configs/quickstart.py --workdir=runs/mine --config.data.path=my_texts/
    python train.py --config=configs/quickstart.py --workdir=runs/tuned --init_from=runs/mine
    srun python train.py --config=configs/pg19_150m.py --workdir=/shared/run

`python -m rmat_jax train` is the same command. The last example runs on every host of a Slurm job;
docs/pods.md has more of these.

A config may have stages (`get_stages`, see configs/passkey.py). They are trained one after the
other, in WORKDIR/stage-1, WORKDIR/stage-2, ..., each from the weights of the one before.

Every key of the config can be set, as in --config.model.chunk_len=256. `rmat config`, which is
`python -m rmat_jax config`, lists every key with its default and its meaning. Ctrl-C saves the run
before it ends.
"""

import argparse
import functools
from pathlib import Path

from rmat_jax import flags
from rmat_jax.config import Config
from rmat_jax.errors import UserError
from rmat_jax.progress import say

SETS_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)
    flags.add_path(
        parser,
        "--workdir",
        "DIR",
        "the folder for checkpoints, metrics and samples, or gs://NAME/FOLDER; a run in it goes on",
        type=flags.folder_or_bucket,
    )
    parser.add_argument(
        "--until",
        type=int,
        metavar="STEP",
        help="the step after which the run saves and stops; the same command resumes it later",
    )
    parser.add_argument(
        "--init_from",
        type=flags.folder,
        metavar="PATH",
        help="the first weights of a new run: a workdir, a folder or file that `export` wrote, or "
        "quickstart, the small model that comes with the package",
    )
    meeting = parser.add_argument_group(
        "several processes",
        "TPU pods, Slurm and Open MPI need none of these, since the processes find each other.",
    )
    meeting.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="the address at which process 0 listens, the same for all processes",
    )
    meeting.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="the number of processes; 1: this one does not look for others",
    )
    meeting.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="the number of this process, from 0 to N-1, different for each",
    )
    meeting.add_argument(
        "--start_timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="the time to wait for all processes (default %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    stages = flags.load_stages(args.config, args.overrides, args.own)
    if len(stages) > 1 and args.until is not None:
        raise UserError(
            f"--until={args.until} stops one run, and {args.config} has {len(stages)} stages; "
            "leave it out, Ctrl-C saves and stops"
        )

    # JAX is imported after the flags are checked: a typo should not wait for it.
    from rmat_jax.train import loop, processes

    processes.connect(
        args.coordinator, args.num_processes, args.process_id, args.start_timeout, args.workdir
    )
    before, workdir = args.init_from, args.workdir
    for number, config in enumerate(stages, 1):
        if len(stages) > 1:
            workdir = _inside(args.workdir, f"stage-{number}")
            processes.say(f"stage {number} of {len(stages)}")
        if before:
            _begin_with(before, workdir, config)
        code = processes.run(functools.partial(loop.run, config, workdir, until=args.until))
        if code:
            return code
        before = workdir
    return 0


def _inside(workdir: Path | str, name: str) -> Path | str:
    """A folder in a workdir, which may be an address."""
    return workdir / name if isinstance(workdir, Path) else f"{workdir.rstrip('/')}/{name}"


def _begin_with(source: Path, workdir: Path | str, config: Config) -> None:
    """Makes a run at step 0 with the weights of `source`, unless the workdir has a run."""
    import jax

    from rmat_jax.interop import convert
    from rmat_jax.interop.weights import weights_file

    if jax.process_count() > 1 or not isinstance(workdir, Path):
        raise UserError(
            "weights of another run or stage are for one process and a workdir on a disk; run "
            "`import` there first, then train"
        )
    if convert.has_checkpoints(workdir):
        say(f"{workdir} has a run that goes on; the weights of {source} are not taken")
        return
    is_file = weights_file(source).is_file()
    begin = convert.import_weights if is_file else convert.import_run
    say(f"weights: {begin(workdir, source, config)}")
