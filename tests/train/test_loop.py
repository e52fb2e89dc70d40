"""The training loop: signals save, a broken loss stops, changed data is refused."""

import json
import signal
import subprocess
import sys

import pytest

from rmat_jax import flags
from rmat_jax.config import to_dict
from rmat_jax.data import make_data
from rmat_jax.errors import UserError
from rmat_jax.signals import Signals
from rmat_jax.train import loop
from rmat_jax.train.metrics import read_metrics
from tests.train.test_resume import CONFIG, ROOT, saved, small_flags


def load(text, *more):
    return flags.load_config(CONFIG, [*small_flags(text), *more])


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_during_an_evaluation_saves_the_step(number, text, tmp_path, monkeypatch, capsys):
    """The step is on disk before it is evaluated, and training stops there."""
    config = load(text, "--config.log.eval_every=3", "--config.log.save_every=0")
    evaluate, handler = loop.evaluate_heldout, signal.getsignal(number)

    def interrupted(*args, **kwargs):
        signal.raise_signal(number)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(
        loop,
        "evaluate_heldout",
        lambda *a, **k: interrupted(*a, **k) if "cut" not in k else evaluate(*a, **k),
    )
    assert loop.run(config, tmp_path / "run") == 128 + number
    assert "saved at step 3 of 10" in capsys.readouterr().out
    assert saved(config, tmp_path / "run")[0] == 3
    # as it was before
    assert signal.getsignal(number) is handler

    monkeypatch.undo()
    assert loop.run(config, tmp_path / "run") == 0
    assert "resuming from step 3" in capsys.readouterr().out
    steps = [line["step"] for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    assert steps == list(range(1, 11))


def test_a_loss_that_is_no_number_stops_the_run(text, tmp_path):
    config = load(
        text,
        "--config.optim.learning_rate=1e30",
        "--config.optim.clip_norm=1e30",
        "--config.log.eval_every=0",
    )
    with pytest.raises(UserError, match="or lower --config.optim.learning_rate"):
        loop.run(config, tmp_path / "run")
    with pytest.raises(TypeError):
        # nothing was saved
        saved(config, tmp_path / "run")[0]


def test_another_text_setting_or_version_is_refused(text, tmp_path, monkeypatch):
    config = load(text)
    loop.run(config, tmp_path / "run", until=1)
    assert loop.run(config, tmp_path / "run", until=1) == 0
    with pytest.raises(UserError, match="model.memory.gate was 'slot', is 'gru'"):
        loop.run(load(text, "--config.model.memory.gate=gru"), tmp_path / "run", until=1)
    # version 1 wrote no number
    monkeypatch.setattr(loop.Checkpoints, "saved_config", lambda self: to_dict(config))
    with pytest.raises(UserError, match="saved by version 1 of .*, this is version 2"):
        loop.run(config, tmp_path / "run", until=1)
    monkeypatch.undo()
    before = json.loads((tmp_path / "run" / "corpus" / "train" / "manifest.json").read_text())[
        "digest"
    ]
    text.write_text("Another line of text.\n" * 400)
    with pytest.raises(UserError, match=f"has changed: it was text {before}.* another --workdir"):
        loop.run(config, tmp_path / "run")


LOCK = (
    "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    "print(flush=True); time.sleep(60)"
)


def test_a_workdir_has_one_run_at_a_time(text, tmp_path):
    config, workdir = load(text), tmp_path / "run"
    workdir.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", LOCK, workdir / ".lock"], stdout=subprocess.PIPE
    )
    other.stdout.readline()
    with pytest.raises(UserError, match="another run is at work in .*run; wait for it"):
        loop.run(config, workdir, until=1)
    other.kill()
    other.communicate()
    assert loop.run(config, workdir, until=1) == 0


def test_too_few_open_files_are_one_line_and_the_process_ends(text, tmp_path):
    """A save that fails leaves work behind in libraries, for which nobody waits."""
    command = [sys.executable, "train.py", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}"]
    command = [*command, *small_flags(text), "--until=1"]
    limited = ["bash", "-c", 'ulimit -n 14; exec "$@"', "bash", *command]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Too many open files" in done.stderr and "raise `ulimit -n`" in done.stderr
    # the control: with more of them
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cut_the_saving_off(number):
    with Signals("") as signals:
        for _ in range(2):
            signal.raise_signal(number)
        assert signals.caught == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_nohup_keeps_a_run_from_ending_with_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals("") as signals:
            signal.raise_signal(signal.SIGHUP)
        assert not signals.caught and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_lost_its_checkpoints_does_not_begin_again_unasked(text, tmp_path, capsys):
    config, run = load(text, "--config.log.save_every=2"), tmp_path / "run"
    loop.run(config, run, until=3)
    history = read_metrics(run)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="checkpoints is empty, but step 3 was saved there; bring"):
        loop.run(config, run)
    assert read_metrics(run) == history
    (run / "checkpoints").rmdir()
    (tmp_path / "elsewhere").rename(run / "checkpoints")
    loop.run(config, run, until=4)
    assert "resuming from step 3" in capsys.readouterr().out
    # the control: what was never saved may begin again
    killed = tmp_path / "killed"
    killed.mkdir()
    lines = [line for line in history if line["split"] == "train"]
    (killed / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loop.run(config, killed, until=1)
    assert "starting in" in capsys.readouterr().out


def test_the_same_text_may_lie_elsewhere(text, tmp_path, capsys):
    loop.run(load(text), tmp_path / "run", until=1)
    moved = text.rename(tmp_path / "moved.txt")
    loop.run(load(moved), tmp_path / "run", until=2)
    assert "resuming from step 1" in capsys.readouterr().out
    # nor must it lie anywhere: the run has kept its tokens
    config, gone = load(moved), moved.rename(tmp_path / "gone.txt")
    loop.run(config, tmp_path / "run", until=3)
    told = capsys.readouterr()
    assert "moved.txt' does not exist" in told.err and "going on with the tokens" in told.err
    assert "resuming from step 2" in told.out
    with pytest.raises(UserError, match="moved.txt' does not exist"):
        loop.run(config, tmp_path / "another")
    source = make_data(config, tmp_path / "run").source
    texts = b"".join(source.train()), b"".join(source.heldout())
    gone.rename(moved)
    source = make_data(config, tmp_path / "run").source
    assert texts == (b"".join(source.train()), b"".join(source.heldout()))
    # the control
    moved.write_text("Another line of text.\n" * 400, encoding="utf-8")
    with pytest.raises(UserError, match="has changed: it was text"):
        loop.run(load(moved), tmp_path / "run")


def test_a_run_may_be_made_longer_where_its_rates_allow(text, tmp_path, capsys):
    def of(schedule, steps):
        more = [f"--config.optim.schedule={schedule}", f"--config.steps={steps}"]
        return load(text, *more, "--config.log.eval_every=0", "--config.optim.warmup_steps=2")

    assert loop.run(of("constant", 3), tmp_path / "run") == 0
    assert loop.run(of("constant", 5), tmp_path / "run") == 0
    assert "resuming from step 3" in capsys.readouterr().out
    assert saved(of("constant", 5), tmp_path / "run")[0] == 5
    # the control: a cosine has begun to fall
    with pytest.raises(
        UserError, match="steps was 6, is 8, which with optim.schedule=cosine may ch"
    ):
        loop._check_steps(of("cosine", 6), of("cosine", 8), 3)
    loop._check_steps(of("cosine", 6), of("cosine", 8), 2)
