"""Bad steps: which they are, what they leave, and that a run with them resumes bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.config import OptimConfig
from rmat_jax.errors import UserError
from rmat_jax.train import loop, parallel, step
from rmat_jax.train.bad_steps import WINDOW, healthy
from rmat_jax.train.checkpoint import digests
from rmat_jax.train.metrics import read_metrics
from rmat_jax.train.optim import make_schedule
from tests.train.test_loop import load
from tests.train.test_resume import saved

SKIP = OptimConfig(bad_step="skip")


def after(norms, optim=SKIP, loss=1.0):
    take = jax.jit(lambda health, norm: health.after(norm, jnp.float32(loss), optim))
    return functools.reduce(take, jnp.float32(norms), healthy())


@pytest.mark.parametrize("norm, bad", [(1.29, False), (1.31, True), (np.inf, True), (np.nan, True)])
def test_a_norm_far_above_the_last_ones_is_bad(norm, bad):
    """Norms of 0.9 and 1.1: their mean is 1, their standard deviation 0.1. The mark stands at 3."""
    optim = OptimConfig(bad_step="skip", bad_step_sigmas=3)
    health = after([0.9, 1.1] * (WINDOW // 2) + [norm], optim)
    assert (health.bad, health.in_a_row) == (bad, bad) and health.good == WINDOW + (not bad)
    # it does not move the mark
    assert not bad or float(health.highest(3)) == pytest.approx(1.3, abs=1e-5)
    # the next good one ends the row
    assert after([0.9, 1.1] * (WINDOW // 2) + [norm, 1.0], optim).in_a_row == 0


@pytest.mark.parametrize("norms, optim", [([1.0, 1.0, 1e9], SKIP), ([1.0] * 200 + [1e9], None)])
def test_control_early_steps_and_stopping_runs_know_no_mark(norms, optim):
    assert after(norms, optim or OptimConfig()).bad == 0
    assert after([*norms, np.nan], optim or OptimConfig()).bad == 1
    assert after(norms, optim or OptimConfig(), loss=np.inf).in_a_row == len(norms)


@pytest.fixture
def spoil(monkeypatch):
    """Makes the gradients of some train steps not finite."""

    def spoil(*steps):
        def train_step(config, optimizer, state, batch, totals=step.totals):
            factor = jnp.where(jnp.isin(state.step + 1, jnp.array(steps)), jnp.nan, 1)

            def spoilt(*args):
                total, carried = totals(*args)
                grads = jax.tree.map(lambda grad: grad * factor, total.grads)
                return total._replace(grads=grads), carried

            return step.train_step(config, optimizer, state, batch, totals=spoilt)

        monkeypatch.setattr(parallel, "train_step", train_step)

    return spoil


def config_of(text, policy, *more):
    return load(text, f"--config.optim.bad_step={policy}", "--config.log.save_every=3", *more)


def records(workdir, split):
    return [line for line in read_metrics(workdir) if line["split"] == split]


MUON = ("--config.optim.name=muon", "--config.optim.ema=0.9")


@pytest.mark.parametrize("more", [(), pytest.param(MUON, marks=pytest.mark.slow)])
def test_a_skipped_step_leaves_all_but_the_place_in_the_data(more, text, tmp_path, spoil, capsys):
    spoil(4)
    config = config_of(text, "skip", *more)
    states = []
    for until in (3, 4, 9):
        loop.run(config, tmp_path, until=until)
        states.append(saved(config, tmp_path)[1])
    before, skipped, end = states
    for part in ("params", "opt_state", "carried", *["ema"] * bool(more)):
        assert digests(getattr(before, part)) == digests(getattr(skipped, part))
        assert digests(getattr(before, part)) != digests(getattr(end, part))
    meta = saved(config, tmp_path)[2]
    assert meta["planned"] and np.isfinite(meta["loss"])
    assert (int(skipped.step), int(skipped.health.bad), int(end.health.good)) == (4, 1, 8)
    assert "the gradient norm nan; nothing is learned from it (1 bad" in capsys.readouterr().out
    lines = records(tmp_path, "train")
    # the bad step has no line, and no mean counts it
    assert [line["step"] for line in lines] == [1, 2, 3, 5, 6, 7, 8, 9]
    assert [line["bad_steps"] for line in lines] == [0] * 3 + [1] * 5
    # the optimiser's own count
    rates = {line["step"]: line["learning_rate"] for line in lines}
    assert rates[5] == make_schedule(config)(3)


def test_a_run_goes_back_and_on_past_the_data(text, tmp_path, spoil, capsys):
    config = config_of(text, "rollback")
    loop.run(config, tmp_path / "run", until=3)
    third = saved(config, tmp_path / "run")[1]
    spoil(5)
    loop.run(config, tmp_path / "run", until=5)
    fifth = saved(config, tmp_path / "run")[1]
    for part in ("params", "opt_state", "carried"):
        assert digests(getattr(third, part)) == digests(getattr(fifth, part))
    assert int(fifth.step) == 5 and int(fifth.health.bad) == 1
    assert "back to step 3; training goes on behind step 5" in capsys.readouterr().out
    assert [(line["step"], line["to"]) for line in records(tmp_path / "run", "rollback")] == [
        (5, 3)
    ]
    # before the first save: to the start
    spoil(2)
    loop.run(config, tmp_path / "early", until=2)
    second = saved(config, tmp_path / "early")[1]
    fresh = parallel.make_init(config, loop.make_optimizer(config), loop.make_mesh(config.mesh))()
    assert digests(second.params) == digests(fresh.params) and int(second.step) == 2


@pytest.mark.parametrize("policy", [pytest.param("skip", marks=pytest.mark.slow), "rollback"])
def test_a_run_with_bad_steps_resumes_bit_for_bit(policy, text, tmp_path, spoil):
    """Stopped at a bad step, between it and the moment it is noticed, and again and again."""
    spoil(5, 7)
    config = config_of(text, policy)

    def run(name, *stops):
        for until in (*stops, 10):
            loop.run(config, tmp_path / name, until=until)
        return digests(saved(config, tmp_path / name)[1])

    whole = run("whole")
    assert run("parts", 5, 6) == whole
    spoil(5)
    # the control: another bad step would show
    assert run("other") != whole


def test_what_does_not_get_well_stops(text, tmp_path, spoil):
    def stops(policy, steps, message):
        spoil(*steps)
        config = load(
            text,
            f"--config.optim.bad_step={policy}",
            "--config.log.save_every=0",
            "--config.log.eval_every=0",
            "--config.steps=40",
        )
        with pytest.raises(UserError, match=message):
            loop.run(config, tmp_path / policy)

    stops("skip", range(2, 20), "step 11: .*nan, the 10th bad step in a row; lower")
    stops("rollback", range(4, 40, 2), "step 24: the run went back to step 0 10 times, and met a")


def test_a_run_that_stopped_may_go_on_with_another_policy(text, tmp_path, spoil):
    spoil(5)
    stopping = load(text, "--config.log.save_every=3")
    with pytest.raises(UserError, match="Go on with --config.optim.bad_step=skip"):
        loop.run(stopping, tmp_path)
    assert saved(stopping, tmp_path)[0] == 3
    assert loop.run(config_of(text, "skip"), tmp_path) == 0
