"""Trackers, which show the records of a run: TensorBoard, Weights & Biases, trackio.

A tracker must neither end a run nor make it wait, so its callers catch its errors. Each package is
imported when its tracker begins.
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
# holds the name of the run at the services, so that a resumed run goes on there
ID_FILE = "tracker_id"


class Tracker(Protocol):
    """A service or a file format that shows the records of a run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers by name, such as `train/loss`."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Takes a text."""

    def close(self) -> None:
        """Sends what is left."""


class TensorBoard:
    """Writes files in WORKDIR/tensorboard."""

    PACKAGE = "tensorboardX"

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]):
        """Begins a file. It supersedes the events of older files from `step` on."""
        with _hidden("torch"):
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._summary, self._events = summary, event_pb2
        # no SummaryWriter, since it waits for ever if its thread has died
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
    """Writes to wandb.ai, or with WANDB_MODE=offline to WORKDIR/wandb."""

    PACKAGE = "wandb"
    # the longest wait for the service at the start, and at the end
    SECONDS = 30

    def __init__(self, workdir: Path, step: int, config: Mapping[str, Any]):
        import wandb

        settings = wandb.Settings(
            console="off", quiet=True, init_timeout=self.SECONDS, finish_timeout=self.SECONDS
        )
        # with a terminal wandb would ask for a login, and wait
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
        # wandb's count of steps must grow, but a resumed run repeats steps
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def write_text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: text, "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Writes to trackio's folder on this machine, or to the space TRACKIO_SPACE_ID."""

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
    """Returns the run's name of eight letters, kept in a file. Raises OSError or UserError where it
    cannot be kept.
    """
    file = workdir / ID_FILE
    if not file.exists():
        write_whole(file, uuid.uuid4().hex[:8] + "\n")
    return file.read_text("utf-8").strip()


@contextlib.contextmanager
def _stdin(file) -> Iterator[None]:
    """Replaces standard input by a file in the block."""
    before, sys.stdin = sys.stdin, file
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Hides an optional package from the imports of the block."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]
