"""Records watch a run: they do not end it, and what can be read of them is read."""

import io
import json
import sys

import pytest
from tensorboardX.event_file_writer import EventsWriter

from rmat_jax import progress
from rmat_jax.train import loop, metrics
from rmat_jax.train.metrics import MetricWriter, read_metrics
from tests.test_public import python
from tests.train.test_loop import load
from tests.train.test_resume import saved


def evaluated(workdir):
    return [r["step"] for r in read_metrics(workdir) if r["split"] == "heldout"]


def test_records_that_cannot_be_written_cost_a_warning_each(text, tmp_path, capsys):
    config, run = load(text, "--config.log.eval_every=2"), tmp_path / "run"
    run.mkdir()
    for name in ("metrics.jsonl", "samples.txt", "config.json"):
        (run / name).mkdir()
    (run / "tensorboard").write_text("no folder")
    assert loop.run(config, run) == 0
    assert saved(config, run)[0] == 10
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    for name in ("metrics.jsonl", "samples.txt", "config.json", "tensorboard"):
        assert len([line for line in warned if f"{name} cannot be written" in line]) == 1, name


def test_a_disk_that_fills_up_does_not_hang_the_board(tmp_path, monkeypatch, capsys):
    def full(self, event):
        raise OSError(28, "No space left on device")

    with MetricWriter(tmp_path, 0) as writer:
        monkeypatch.setattr(EventsWriter, "write_event", full)
        for step in range(1, 30):
            writer.write("made", step, loss=1.0, accuracy=0.5)
    assert capsys.readouterr().err.count("tensorboard cannot be written (No space left") == 1
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(1, 30))


def test_damaged_lines_are_left_out_and_told(tmp_path, capsys):
    good = [{"split": "made", "step": step, "loss": 1.0} for step in (1, 2, 3)]
    bad = [
        "{",
        "3",
        "{}",
        '{"split": "train", "step": "4"}',
        '{"split": 1, "step": 4}',
        "[" * 10**5,
    ]
    bad += ['{"split": "train", "step": 4, "loss": "low"}', "\0\0"]
    # a flipped bit in a name
    bad += ['{"split": "train", "step": 4, "losr": 1.0}']
    lines = [json.dumps(good[0]), *bad, json.dumps(good[1]), json.dumps(good[2])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines)[:-4])
    assert read_metrics(tmp_path) == good[:2]
    with MetricWriter(tmp_path, 2):
        pass
    told = capsys.readouterr().err
    assert "metrics.jsonl, line 2 and 9 more cannot be read as a record, left out" in told
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(
        json.dumps(r) + "\n" for r in good[:2]
    )


def test_without_room_to_drop_repeated_lines_none_is_lost(tmp_path, monkeypatch, capsys):
    with MetricWriter(tmp_path, 0) as writer:
        for step in range(1, 5):
            writer.write("made", step, loss=float(step))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "write_whole", full)
    with MetricWriter(tmp_path, 2) as writer:
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
        writer.write("made", 3, loss=30.0)
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1, 2, 30, 4]
    assert "metrics.jsonl cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_sample_that_is_repeated_stands_there_once(tmp_path):
    for _ in range(2):
        with MetricWriter(tmp_path, 0) as writer:
            writer.write_sample(10, "caf\udce9, written as it came")
    with MetricWriter(tmp_path, 10) as writer:
        writer.write_sample(20, "another")
    written = (tmp_path / "samples.txt").read_bytes()
    assert written == b"--- step 10\ncaf\xe9, written as it came\n--- step 20\nanother\n"


def test_an_evaluation_that_fails_costs_no_step(text, tmp_path, monkeypatch):
    config = load(text, "--config.log.eval_every=3", "--config.log.save_every=0")

    def fails(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(loop, "evaluate_heldout", fails)
    with pytest.raises(MemoryError):
        loop.run(config, tmp_path / "run")
    assert saved(config, tmp_path / "run")[0] == 3
    monkeypatch.undo()
    # the evaluation that is missing is made up for
    assert loop.run(config, tmp_path / "run") == 0
    assert evaluated(tmp_path / "run") == [3, 6, 9, 10]


def test_a_terminal_prints_what_it_can_and_may_go_away(monkeypatch, capsys):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    progress.tell("caf\xe9 \udce9")
    assert ascii_only.buffer.getvalue() == b"caf? ?\n"
    ascii_only.close()
    progress.tell("nobody reads this")
    progress.tell("nor this")
    assert capsys.readouterr().err.count("standard output is gone") == 1


def test_records_that_cannot_be_read_are_not_thrown_away(tmp_path, monkeypatch, capsys):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write("train", 1, loss=1.0)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(metrics, "json_lines", denied)
    with MetricWriter(tmp_path, 1):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert "metrics.jsonl" in (told := capsys.readouterr().err) and "Permission denied" in told
    assert read_metrics(tmp_path) == []


def test_no_board_without_its_package(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with MetricWriter(tmp_path, 0) as writer:
        writer.write("made", 1, loss=1.0)
    assert "they take: pip install 'rmat_jax[tensorboard]'" in capsys.readouterr().err
    assert len(read_metrics(tmp_path)) == 1 and not (tmp_path / "tensorboard").exists()


def test_the_board_does_not_bring_torch(tmp_path):
    program = "import pathlib, sys; from rmat_jax.train.metrics import MetricWriter\n"
    program += f"MetricWriter(pathlib.Path({str(tmp_path)!r}), 0)\n"
    any_of_it = "print(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    assert python(program + any_of_it) == "False\n"
    assert (tmp_path / "tensorboard").exists()
    # the control: the package would
    assert python("import sys, tensorboardX; " + any_of_it) == "True\n"
