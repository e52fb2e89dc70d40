"""What a run records: metrics.jsonl, TensorBoard, samples.txt. A resumed run takes back what it is
about to repeat.

Records watch a run and must not end it: one that cannot be written costs a warning, once.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmat_jax.errors import install
from rmat_jax.files import json_lines, write_whole
from rmat_jax.progress import BestEffort, say


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, each step and split once. Damaged ones are left out.

    A run that goes on from an earlier step repeats lines: the last of them counts.
    """
    try:
        return _read(Path(workdir) / "metrics.jsonl")[0]
    except OSError:
        return []


def _read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records, and the places of damaged lines. Raises OSError where the file is not given."""
    left_out: list[str] = []
    records = {}
    try:
        with path.open("rb") as lines:
            for where, record in json_lines(lines, str(path), "", left_out):
                if isinstance(record, dict) and _is_record(record):
                    records[record["split"], record["step"]] = record
                else:
                    left_out.append(where)
    except FileNotFoundError:
        pass
    return list(records.values()), left_out


# of each kind of line, what its readers take for granted
_ALWAYS = {
    "train": {"tokens", "loss", "accuracy", "tokens_per_second", "seconds"},
    "heldout": {"accuracy", "bits_per_token"},
}


def _is_record(record: dict[str, Any]) -> bool:
    kinds = (bool, int, float)
    return (
        isinstance(record.get("split"), str)
        and type(record.get("step")) is int
        and _ALWAYS.get(record["split"], set()) <= record.keys()
        and all(isinstance(x, kinds) for key, x in record.items() if key != "split")
    )


class MetricWriter:
    """Appends to the records of a workdir; use as a context."""

    def __init__(self, workdir: Path, step: int):
        """Begins to write. Lines of steps after `step`, where the run goes on, are dropped.

        Args:
            workdir: of the run.
            step: the last step that is done.
        """
        self._try, self._board = BestEffort("training"), None
        self._path, self._samples = workdir / "metrics.jsonl", workdir / "samples.txt"
        self.records: list[dict[str, Any]] = []
        # what cannot be read is not written over
        with self._try(self._path):
            found, left_out = _read(self._path)
            if left_out:
                more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
                say(f"warning: {left_out[0]}{more} cannot be read as a record, left out")
            self.records = [record for record in found if record["step"] <= step]
            if self.records != found or left_out:
                lines = [json.dumps(record) + "\n" for record in self.records]
                write_whole(self._path, "".join(lines))
        with self._try(workdir / "tensorboard"):
            try:
                self._open_board(workdir / "tensorboard", step + 1)
            except ModuleNotFoundError:
                say(f"note: no files for TensorBoard; they take: {install('tensorboardX')}")

    def _open_board(self, folder: Path, step: int) -> None:
        """Begins a file for TensorBoard. Raises ModuleNotFoundError without its package."""
        with _hidden("torch"):
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        folder.mkdir(exist_ok=True)
        self._summary, self._events = summary, event_pb2
        # not by a SummaryWriter: its thread may die, and then it waits for it without end
        self._board = EventsWriter(str(folder / "events"))
        begins = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write_event(step, session_log=begins)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._board is not None:
            with self._try("tensorboard"):
                self._board.close()

    def write(self, split: str, step: int, **values: float) -> None:
        """Writes one line: {"split": ..., "step": ..., name: number, ...}."""
        record = {"split": split, "step": step, **values}
        self.records.append(record)
        with self._try(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            self._write_event(step, scalar=(f"{split}/{name}", value))

    def write_sample(self, step: int, sample: str) -> None:
        """Appends a text, unless a run that was stopped before it saved has left the same."""
        written = f"--- step {step}\n{sample}\n".encode("utf-8", "surrogateescape")
        with self._try(self._samples):
            if not self._samples.exists() or written not in self._samples.read_bytes():
                with self._samples.open("ab") as file:
                    file.write(written)
        shown = written.decode("utf-8", "replace").partition("\n")[2]
        self._write_event(step, text=("sample", shown))

    def _write_event(self, step: int, **what: Any) -> None:
        """Tells TensorBoard: `scalar=(name, number)`, `text=(name, text)`, or a field of Event."""
        if self._board is not None:
            with self._try("tensorboard"):
                for kind in {"scalar", "text"} & what.keys():
                    what["summary"] = getattr(self._summary, kind)(*what.pop(kind))
                event = self._events.Event(wall_time=time.time(), step=step, **what)
                self._board.write_event(event)
                self._board.flush()


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


class NoWriter:
    """Leaves the writing to another process."""

    records: tuple[dict[str, Any], ...] = ()

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *_) -> None:
        pass

    def write(self, split: str, step: int, **values: float) -> None:
        """Does nothing."""

    def write_sample(self, step: int, sample: str) -> None:
        """Does nothing."""
