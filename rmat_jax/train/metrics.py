"""The records of a run: metrics.jsonl, samples.txt, trackers. A resumed run deletes the records of
steps that it is about to repeat.

A record that cannot be written does not end a run, but costs a warning, once.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmat_jax.errors import install
from rmat_jax.files import json_lines, write_whole
from rmat_jax.progress import BestEffort, say
from rmat_jax.train.trackers import TRACKERS, Tracker


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl, one a step and split. Damaged lines are left out.

    A run that goes on from an earlier step repeats lines. The last line of a step counts.
    """
    try:
        return _read(Path(workdir) / "metrics.jsonl")[0]
    except OSError:
        return []


def _read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the records, and the places of damaged lines. Raises OSError if it cannot read."""
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


# the names that each kind of record must have
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
    """Appends to the records of a workdir. A context manager."""

    def __init__(
        self,
        workdir: Path,
        step: int,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        """Begins to write, and drops records of steps after `step`.

        Args:
            workdir: the workdir of the run.
            step: the last step that is done.
            trackers: names in TRACKERS. One that cannot begin costs a warning and is left out.
            config: the config of the run, for the trackers that show it.
        """
        self._try = BestEffort("training")
        self._path, self._samples = workdir / "metrics.jsonl", workdir / "samples.txt"
        self.records: list[dict[str, Any]] = []
        # a file that cannot be read is not overwritten
        with self._try(self._path):
            found, left_out = _read(self._path)
            if left_out:
                more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
                say(f"warning: {left_out[0]}{more} cannot be read as a record, left out")
            self.records = [record for record in found if record["step"] <= step]
            if self.records != found or left_out:
                lines = [json.dumps(record) + "\n" for record in self.records]
                write_whole(self._path, "".join(lines))
        self._trackers: dict[str, Tracker] = {}
        for name in trackers:
            begin = TRACKERS[name]
            with self._try(name):
                try:
                    self._trackers[name] = begin(workdir, step + 1, config or {})
                except ModuleNotFoundError:
                    say(f"note: no records for {name}; they take: {install(begin.PACKAGE)}")

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        for name, tracker in self._trackers.items():
            with self._try(name):
                tracker.close()

    def write(self, split: str, step: int, **values: float) -> None:
        """Writes one line: {"split": ..., "step": ..., name: number, ...}."""
        record = {"split": split, "step": step, **values}
        self.records.append(record)
        with self._try(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._tell("write", step, {f"{split}/{name}": value for name, value in values.items()})

    def write_sample(self, step: int, sample: str) -> None:
        """Appends a text, unless the file has it already from before a resume."""
        written = f"--- step {step}\n{sample}\n".encode("utf-8", "surrogateescape")
        with self._try(self._samples):
            if not self._samples.exists() or written not in self._samples.read_bytes():
                with self._samples.open("ab") as file:
                    file.write(written)
        shown = written.decode("utf-8", "replace").partition("\n")[2]
        self._tell("write_text", step, "sample", shown)

    def _tell(self, what: str, step: int, *values: Any) -> None:
        """Calls the method `what` of every tracker."""
        for name, tracker in self._trackers.items():
            with self._try(name):
                getattr(tracker, what)(step, *values)


class NoWriter:
    """A writer that does nothing, for processes other than process 0."""

    records: tuple[dict[str, Any], ...] = ()

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *_) -> None:
        pass

    def write(self, split: str, step: int, **values: float) -> None:
        """Does nothing."""

    def write_sample(self, step: int, sample: str) -> None:
        """Does nothing."""
