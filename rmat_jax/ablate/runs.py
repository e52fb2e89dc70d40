"""Trains the runs of a comparison, each in a process of its own, and measures them."""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax import flops
from rmat_jax.ablate.variants import num_params, state_bytes
from rmat_jax.config import Config, differences, from_saved, to_dict, to_saved
from rmat_jax.errors import UserError
from rmat_jax.evals.suite import load_subject
from rmat_jax.files import read_checked, well_formed, write_checked
from rmat_jax.progress import Progress
from rmat_jax.signals import Signals
from rmat_jax.train import loop
from rmat_jax.train.checkpoint import MAY_CHANGE
from rmat_jax.train.heldout import evaluate_heldout
from rmat_jax.train.metrics import read_metrics

RESULT = "result.json"
LOG = "log.txt"
# the seconds between two looks at a process
POLL = 0.5
# the time between two lines of progress
PATIENCE_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Run:
    """A config and the folder in which it is trained."""

    name: str
    seed: int
    config: Config
    workdir: Path

    def result(self) -> dict[str, Any] | None:
        """The result of the run, if it is finished and was of this config; else None.

        Raises:
            UserError: the file is damaged, or another version wrote it.
        """
        file, remedy = self.workdir / RESULT, "delete it to make it anew"
        if not file.exists():
            return None
        with well_formed(file, remedy):
            result = json.loads(read_checked(file, remedy))
            trained = to_dict(from_saved(Config, result["config"], str(self.workdir)))
        return None if differences(trained, to_dict(self.config), ignore=MAY_CHANGE) else result


def finish(runs: Sequence[Run], shared: Path, jobs: int, say: Callable[[str], None]) -> int:
    """Trains the unfinished runs, `jobs` at a time, each with its share of the cores.

    A run whose input is bad or whose loss diverges says so in its result, and the others go on.
    Ctrl-C and SIGTERM are passed on: each run saves, and the same call goes on from there.

    Returns:
        0, or 128 + the signal that stopped the runs.

    Raises:
        UserError: a run ended without a result. The others are stopped, and save.
    """
    # failed runs are tried again
    waiting = [run for run in runs if (run.result() or {"error": "none"})["error"]]
    say(f"{len(runs)} runs, {len(runs) - len(waiting)} finished before, {jobs} at a time")
    # JAX does not survive a fork
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares = [set(cores[job::jobs]) for job in range(jobs)]
    at_work: dict[int, tuple[Run, Any]] = {}
    progress, told = Progress(PATIENCE_SECONDS), False
    with Signals("stopping the runs, which save first") as signals:
        while at_work or (waiting and not signals.caught):
            for job in range(jobs):
                if job not in at_work and waiting and not signals.caught:
                    run = waiting.pop(0)
                    process = context.Process(
                        target=_work, args=(run, shared, shares[job]), daemon=True
                    )
                    process.start()
                    at_work[job] = run, process
            time.sleep(POLL)
            if signals.caught and not told:
                told = True
                for _, process in at_work.values():
                    process.terminate()
            for job, (run, process) in list(at_work.items()):
                if not process.is_alive():
                    del at_work[job]
                    _check_ended(run, process.exitcode, say, stopped=told)
            if at_work and progress.due():
                say(
                    "; ".join(_standing(run) for run, _ in at_work.values())
                    + f"; {len(waiting)} waiting"
                )
    return 128 + signals.caught if signals.caught else 0


def _check_ended(run: Run, code: int, say: Callable[[str], None], *, stopped: bool) -> None:
    result = run.result()
    if result is not None:
        score = result["error"] or f"{result['score']:.4f} in {result['seconds']:,.0f} s"
        say(f"{run.name}, seed {run.seed}: {score}")
    elif not stopped:
        raise UserError(
            f"{run.name}, seed {run.seed}, ended with code {code}; {run.workdir / LOG} says why, "
            "and the same command goes on"
        )


def _standing(run: Run) -> str:
    lines = [line for line in read_metrics(run.workdir) if line["split"] == "train"]
    return (
        f"{run.name}, seed {run.seed}: step {lines[-1]['step'] if lines else 0} of "
        f"{run.config.steps}"
    )


def _work(run: Run, shared: Path, cores: set[int]) -> None:
    """Trains one run, in a process of its own."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if cores:
        os.sched_setaffinity(0, cores)
    run.workdir.mkdir(parents=True, exist_ok=True)
    # the result of a failed attempt
    (run.workdir / RESULT).unlink(missing_ok=True)
    with _into(run.workdir / LOG):
        try:
            _share_corpus(run, shared)
            code = loop.run(run.config, run.workdir)
            if code:
                sys.exit(code)
            result = measure(run)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            result = {"error": str(error)}
        result |= {"name": run.name, "seed": run.seed, "config": to_saved(run.config)}
        write_checked(run.workdir / RESULT, json.dumps({"error": "", **result}))


def _end_with(parent: int) -> None:
    """Ends this process, which saves, when its parent is gone, since that may have been killed."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _into(file: Path) -> Iterator[None]:
    """Appends standard output and error, also those of libraries below Python, to a file."""
    with file.open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
        yield


def _share_corpus(run: Run, shared: Path) -> None:
    """Links the run to a corpus that all runs with the same text and vocabulary share."""
    if run.config.data.synthetic:
        return
    data = dataclasses.replace(run.config.data, seed=0)
    key = hashlib.sha256(repr((data, run.config.model.vocab_size)).encode()).hexdigest()[:12]
    for name in ("corpus", "tokenizer"):
        folder, link = shared / key / name, run.workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        # relative, so that all may be moved together
        link.symlink_to(os.path.relpath(folder, run.workdir))


def measure(run: Run) -> dict[str, Any]:
    """Measures the score of a finished training, and what it cost."""
    subject = load_subject(run.workdir)
    config, heldout = subject.config, subject.data.heldout
    kept = evaluate_heldout(config, subject.params, heldout, heldout.num_bytes)
    train = [line for line in read_metrics(run.workdir) if line["split"] == "train"]
    found = {
        "score": kept.score,
        "unit": kept.unit,
        "bits_per_token": kept.bits_per_token,
        "score_without_memory": None,
        "data": subject.data.identity,
        "parameters": num_params(config.model),
        "state_bytes": state_bytes(config.model),
        "flops_per_token": flops.per_token(config.model),
        "tokens_per_second": float(
            np.median([line["tokens_per_second"] for line in train[1:] or train])
        ),
        "tokens": train[-1]["tokens"],
        "seconds": train[-1]["seconds"],
    }
    if config.model.memory:
        cut = evaluate_heldout(config, subject.params, heldout, heldout.num_bytes, cut=True)
        found["score_without_memory"] = cut.score
    edges, means, counts = kept.by_offset()
    return found | {
        "offsets": {
            "edges": edges.tolist(),
            "bits": np.nan_to_num(means).tolist(),
            "tokens": counts.tolist(),
        }
    }
