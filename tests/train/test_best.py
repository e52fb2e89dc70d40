"""The best point of a run stays, is found again, and ends a run that finds no better one."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax import runs
from rmat_jax.config import Config
from rmat_jax.errors import UserError
from rmat_jax.flags import Parser, add_step
from rmat_jax.train import loop
from rmat_jax.train.best import Best, best_of
from rmat_jax.train.checkpoint import Checkpoints, restore_params
from rmat_jax.train.metrics import read_metrics
from tests.train.test_loop import load


def steps_of(run):
    return {int(file.name) for file in (run / "checkpoints").iterdir()}


def heldout(run):
    return {r["step"]: r["bits_per_token"] for r in read_metrics(run) if r["split"] == "heldout"}


def test_the_lowest_is_the_best_and_what_comes_after_is_counted():
    losses = [3.0, 2.0, 2.5, 2.0, math.nan]
    records = [{"split": "heldout", "step": s, "bits_per_token": x} for s, x in enumerate(losses)]
    assert best_of([*records, {"split": "train", "step": 9}]) == Best(1, 2.0, since=3)
    # the order in the file does not matter, and a better one ends the count
    assert best_of(records[::-1]) == Best(1, 2.0, since=3)
    assert best_of(records).after(7, 1.9) == Best(7, 1.9, since=0)
    assert best_of([]) == Best(None)


@pytest.fixture(scope="module")
def overfit(tmp_path_factory):
    """A run on a text so small that it is soon known by heart, and its config."""
    folder = tmp_path_factory.mktemp("overfit")
    rng = np.random.default_rng(0)
    # noise: what is learned by heart says nothing of what is held out
    (folder / "text.txt").write_bytes(rng.integers(97, 123, 3000, np.uint8).tobytes())
    config = load(
        folder / "text.txt",
        *("--config.steps=120", "--config.optim.schedule=constant"),
        *("--config.optim.learning_rate=0.03", "--config.optim.warmup_steps=1"),
        *("--config.log.eval_every=10", "--config.log.sample_tokens=0", "--config.log.keep=1"),
        *("--config.log.patience=3", "--config.eval_tokens=128"),
    )
    return config, folder


def test_a_run_that_overfits_returns_its_best_point(overfit, capsys):
    config, folder = overfit
    run = folder / "run"
    assert loop.run(config, run) == 0
    bits = heldout(run)
    best, last = min(bits, key=bits.get), max(bits)
    # it did get worse, and ended long before its last step
    assert bits[last] > bits[best] + 0.01 and last < 120
    assert last == best + 30
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == (
        f"ended at step {last} of 120: in 3 evaluations the held-out loss was not below that of "
        f"step {best} (log.patience=3); --step=best takes it"
    )
    assert {best, last} <= steps_of(run)
    assert restore_params(run / "checkpoints", "best").step == best
    # the controls: another step's weights are other ones, and the newest is not the best
    found, newest = (runs.load_run(run, step)[1]["output"] for step in ("best", None))
    assert not (found == newest).all()
    assert (found == runs.load_run(run, best)[1]["output"]).all()


def test_a_resumed_run_does_not_forget_how_many(overfit, capsys):
    config, folder = overfit
    whole, parts = folder / "run", folder / "parts"
    for until in range(15, 120, 20):
        loop.run(config, parts, until=until)
    assert heldout(parts) == heldout(whole)
    assert steps_of(parts) & {max(heldout(whole))}
    capsys.readouterr()
    # nothing is left to do
    assert loop.run(config, parts) == 0
    told = capsys.readouterr().out
    assert "compiling" not in told and "ended at step" in told.splitlines()[-1]


def test_best_where_nothing_was_kept_is_one_line(tmp_path):
    state = {"params": {"w": jnp.zeros(3)}}
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, Config())
            # controls: the first is the best until the second is
            checkpoints.best = min(step, 2)
    assert steps_of(tmp_path) == {2, 3}
    with pytest.raises(UserError, match="says that no step was evaluated; give one of --step=2, 3"):
        restore_params(tmp_path / "checkpoints", "best")
    record = {"split": "heldout", "step": 1, "accuracy": 0.5, "bits_per_token": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="step 1 was the best, and is gone; give one of --step=2"):
        restore_params(tmp_path / "checkpoints", "best")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record | {"step": 2}) + "\n")
    assert restore_params(tmp_path / "checkpoints", "best").step == 2


def test_the_flag_takes_a_number_or_best():
    parser = Parser()
    add_step(parser)
    given = [parser.parse_args([f"--step={text}"]).step for text in ("12", "best")]
    assert given == [12, "best"] and parser.parse_args([]).step is None
    for text in ("-1", "last", "1.5"):
        with pytest.raises(UserError, match="must be the number of a step, or best"):
            parser.parse_args([f"--step={text}"])
