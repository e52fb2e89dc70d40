"""Where the records of a run can be watched besides: TensorBoard, Weights & Biases, trackio.

A tracker watches a run and must not end it or wait for anybody: whoever calls one catches what it
raises. Each package is imported when its tracker begins.
"""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rmat_jax.files import write_whole

PROJECT = "rmat_jax"
# holds the name by which the services know the run, so that a resumed one goes on there
ID_FILE = "tracker_id"


class Tracker(Protocol):
    """One place to watch a run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers by name, such as `train/loss`."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Takes a text."""

    def close(self) -> None:
        """Sends what is left."""


class TensorBoard:
    """Files in WORKDIR/tensorboard."""

    PACKAGE = "tensorboardX"

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]):
        """Begins a file; what older ones have of `step` and later steps is superseded."""
        with _hidden("torch"):
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._summary, self._events = summary, event_pb2
        # not by a SummaryWriter: its thread may die, and then it waits for it without end
        self._board = EventsWriter(str(folder / "events"))
        self._event(step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._event(step, summary=self._summary.scalar(name, value))

    def write_text(self, step: int, name: str, text: str) -> None:
        self._event(step, summary=self._summary.text(name, text))

    def close(self) -> None:
        self._board.close()

    def _event(self, step: int, **what: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **what)
        self._board.write_event(event)
        self._board.flush()


class WandB:
    """A run at wandb.ai, or with WANDB_MODE=offline in WORKDIR/wandb."""

    PACKAGE = "wandb"
    # to reach it at the start, and to send the rest at the end
    SECONDS = 30

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]):
        import wandb

        settings = wandb.Settings(
            console="off", quiet=True, init_timeout=self.SECONDS, finish_timeout=self.SECONDS
        )
        # it would ask for a login, and wait
        with open(os.devnull, encoding="utf-8") as nobody, _stdin(nobody):
            self._run = wandb.init(
                project=PROJECT,
                name=workdir.name,
                id=_identity(workdir),
                resume="allow",
                dir=workdir,
                config=dict(config),
                settings=settings,
            )
        # its own count of steps must grow, and a resumed run repeats some
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def write_text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: text, "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run in trackio's own folder on this machine, or where TRACKIO_SPACE_ID says."""

    PACKAGE = "trackio"

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]):
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=f"{workdir.name}-{_identity(workdir)}",
            resume="allow",
            config=dict(config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def write_text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: text}, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def _identity(workdir: Path) -> str:
    """Eight letters that stay the run's. Raises OSError or UserError where they cannot be kept."""
    file = workdir / ID_FILE
    if not file.exists():
        write_whole(file, uuid.uuid4().hex[:8] + "\n")
    return file.read_text("utf-8").strip()


@contextlib.contextmanager
def _stdin(file) -> Iterator[None]:
    """What is read from standard input in the block comes from a file."""
    before, sys.stdin = sys.stdin, file
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """What is imported in the block does not find a package that it could use, and need not."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]
