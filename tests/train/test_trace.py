"""Traces of some steps: made where they are asked for, and no reason to end a run."""

import jax
import jax.numpy as jnp
import pytest

from rmat_jax.config import LogConfig
from rmat_jax.errors import UserError
from rmat_jax.train.trace import Trace


def traced(folder, steps, last):
    """The steps during which the profiler ran."""
    seen = []
    with Trace(folder, steps) as trace:
        for step in range(last):
            trace.at(step, jnp.zeros(()))
            if trace._running:
                seen.append(step + 1)
        trace.at(last, jnp.zeros(()))
    return seen


def test_the_steps_behind_the_first_up_to_the_second_are_traced(tmp_path):
    assert traced(tmp_path, (2, 4), 6) == [3, 4]
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_run_that_ends_before_leaves_what_there_is(tmp_path):
    assert traced(tmp_path, (1, 9), 3) == [2, 3]
    assert list(tmp_path.rglob("*.xplane.pb"))
    # and the profiler is free again
    with jax.profiler.trace(tmp_path / "other"):
        pass


def test_without_steps_nothing_is_traced(tmp_path):
    assert traced(tmp_path / "none", None, 3) == [] and not (tmp_path / "none").exists()


def test_a_failure_costs_a_warning(tmp_path, capsys, monkeypatch):
    def fails(folder):
        raise RuntimeError("there is no profiler")

    monkeypatch.setattr(jax.profiler, "start_trace", fails)
    assert traced(tmp_path, (0, 2), 3) == []
    assert capsys.readouterr().err.count("there is no profiler") == 1


@pytest.mark.parametrize("text", ["3", "4:2", "a:b", "1:1", ":", "-1:2"])
def test_what_is_no_pair_of_steps_is_said_in_one_line(text):
    with pytest.raises(UserError, match=f"log.profile={text} must be START:STOP, two steps such"):
        LogConfig(profile=text)
    assert LogConfig(profile="3:5").traced == (3, 5) and LogConfig().traced is None
