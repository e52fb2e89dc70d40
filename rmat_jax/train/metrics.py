"""What a run records: metrics.jsonl, TensorBoard, samples.txt. A resumed run takes back what it is
about to repeat.
"""

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from rmat_jax.files import json_lines, write_whole


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is left out."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    return [line for _, line in json_lines(whole, str(path), "take this line out")]


class MetricWriter:
    """Appends to the records of a workdir; use as a context."""

    def __init__(self, workdir: Path, step: int):
        """Drops lines of steps after `step`, where the run goes on."""
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._samples = workdir / "samples.txt"
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1, flush_secs=10
        )

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self._board.close()

    def write(self, split: str, step: int, **values: float) -> None:
        """One line: {"split": ..., "step": ..., name: number, ...}."""
        with self._path.open("a") as file:
            file.write(json.dumps({"split": split, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def write_sample(self, step: int, text: str) -> None:
        with self._samples.open("a", encoding="utf-8") as file:
            file.write(f"--- step {step}\n{text}\n")
        self._board.add_text("sample", text, step)


class NoWriter:
    """For the processes that leave writing to another one."""

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *_) -> None:
        pass

    def write(self, split: str, step: int, **values: float) -> None:
        pass

    def write_sample(self, step: int, text: str) -> None:
        pass
