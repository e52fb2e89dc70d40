"""Trackers see what is recorded, go on where a run goes on, and never end it."""

import json
import os
import re
import sqlite3
import sys

import pytest

from rmat_jax.config import LogConfig, from_dict, to_dict
from rmat_jax.errors import UserError
from rmat_jax.train import loop, metrics
from rmat_jax.train.metrics import MetricWriter, read_metrics
from tests.test_public import python
from tests.train.test_loop import load
from tests.train.test_resume import saved


class Seen:
    """Keeps what it is told; fails at what `FAILS` names."""

    PACKAGE, FAILS = "wandb", ""
    said: list = []

    def __init__(self, workdir, step, config):
        self._say("begin", step, config)

    def _say(self, what, *values):
        if what == self.FAILS:
            raise ConnectionError("no\nnetwork")
        self.said.append((what, *values))

    def write(self, step, values):
        self._say("write", step, values)

    def write_text(self, step, name, text):
        self._say("text", step, name, text)

    def close(self):
        self._say("close")


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setitem(metrics.TRACKERS, "wandb", Seen)
    monkeypatch.setattr(Seen, "said", [])
    return Seen.said


def test_a_tracker_sees_every_record_and_sample(seen, tmp_path):
    with MetricWriter(tmp_path, 4, ["wandb"], {"steps": 9}) as writer:
        writer.write("train", 5, loss=1.0)
        writer.write_sample(5, "text")
    assert seen == [
        ("begin", 5, {"steps": 9}),
        ("write", 5, {"train/loss": 1.0}),
        ("text", 5, "sample", "text\n"),
        ("close",),
    ]
    # TensorBoard was not asked for
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("fails", ["begin", "write", "close"])
def test_one_that_fails_costs_a_warning_and_no_record(fails, seen, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Seen, "FAILS", fails)
    with MetricWriter(tmp_path, 0, ["wandb", "tensorboard"]) as writer:
        for step in (1, 2, 3):
            writer.write("made", step, loss=1.0)
    told = capsys.readouterr().err
    assert told == "warning: wandb cannot be written (no network); training goes on without it\n"
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    assert list((tmp_path / "tensorboard").iterdir())


def test_names_are_checked(text):
    assert LogConfig().trackers == ("tensorboard",)
    for typed, found in (("wandb,trackio", ("wandb", "trackio")), ("", ())):
        log = load(text, f"--config.log.trackers={typed}").log
        assert log.trackers == found
        assert from_dict(LogConfig, json.loads(json.dumps(to_dict(log)))) == log
    with pytest.raises(UserError, match="trackers=mlflow names 'mlflow'; name each of tensorboard"):
        load(text, "--config.log.trackers=mlflow")


def test_without_its_package_a_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with MetricWriter(tmp_path, 0, ["trackio"]) as writer:
        writer.write("made", 1, loss=1.0)
    told = capsys.readouterr().err
    assert told == "note: no records for trackio; they take: pip install 'rmat_jax[trackio]'\n"


def parts(text, tmp_path, *more):
    """A run in two parts, which the trackers show as one."""
    config = load(text, *more, "--config.log.eval_every=0")
    for until in (2, 4):
        loop.run(config, tmp_path / "run", until=until)
    assert saved(config, tmp_path / "run")[0] == 4


def test_weights_and_biases_without_network(text, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    parts(text, tmp_path, "--config.log.trackers=wandb")
    folder = tmp_path / "run" / "wandb"
    runs = [f.name for f in folder.iterdir() if f.name.startswith("offline-run-")]
    names = {re.search("-([0-9a-f]{8})$", name)[1] for name in runs}
    assert len(runs) == 2 and names == {(tmp_path / "run" / "tracker_id").read_text().strip()}
    for name in runs:
        (file,) = (folder / name).glob("*.wandb")
        assert b"train/loss" in file.read_bytes()


def test_weights_and_biases_without_a_login_is_a_warning(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", f"{tmp_path}")
    monkeypatch.setenv("NETRC", f"{tmp_path / 'netrc'}")
    # a process of its own: this one may have a session already
    program = "import pathlib, sys; from rmat_jax.train.metrics import MetricWriter\n"
    program += f"sys.stderr = sys.stdout; folder = pathlib.Path({str(tmp_path)!r})\n"
    program += "with MetricWriter(folder, 0, ['wandb']) as w: w.write('made', 1, loss=1.0)"
    assert "warning: wandb cannot be written (No API key configured" in python(program)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]


def test_trackio_goes_on_where_it_stopped(text, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    parts(text, tmp_path, "--config.log.trackers=trackio")
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step")
        found = [(name, step) for name, step, values in rows if "train/loss" in str(values)]
    assert [step for _, step in found] == [1, 2, 3, 4]
    assert len({name for name, _ in found}) == 1
