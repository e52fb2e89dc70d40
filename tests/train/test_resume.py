"""Law 7: a resumed run is the uninterrupted run, bit for bit, on the real trainer in processes of
its own.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import reliability
from rmat_jax import flags
from rmat_jax.data import make_data
from rmat_jax.train.checkpoint import Checkpoints, digests
from rmat_jax.train.metrics import read_metrics
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import init_state
from rmat_jax.train.step import train_step

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/quickstart.py")
SMALL = reliability.SMALL | {"batch_size": 4, "steps": 10, "log.sample_tokens": 8, "mesh.data": 1}


def small_flags(text: Path) -> list[str]:
    return [f"--config.{key}={value}" for key, value in (SMALL | {"data.path": text}).items()]


def train(text: Path, workdir: Path, *more: str) -> str:
    """What the real command printed, run in a process of its own."""
    command = [
        sys.executable,
        "train.py",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        *small_flags(text),
        *more,
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(workdir.parent / "cache")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def abstract_state(config):
    return jax.eval_shape(functools.partial(init_state, config, make_optimizer(config)))


def saved(config, workdir: Path):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(abstract_state(config))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 10 steps; one of 5 that another process went on with; what that one printed."""
    folder = tmp_path_factory.mktemp("resume")
    text = reliability.write_text(folder / "text")
    train(text, folder / "whole")
    train(text, folder / "parts", "--until=5")
    shutil.copytree(folder / "parts", folder / "steps5")
    printed = train(text, folder / "parts")
    return flags.load_config(CONFIG, small_flags(text)), folder, printed


def test_ten_steps_are_five_and_five(runs):
    config, folder, printed = runs
    assert "resuming from step 5" in printed
    (step, whole, _), (other_step, parts, _) = (
        saved(config, folder / "whole"),
        saved(config, folder / "parts"),
    )
    assert step == other_step == 10
    names = digests(whole)
    assert names == digests(parts)
    for part in ("params/", "opt_state/", "key", "carried/", "step"):
        # the digests are of everything
        assert any(name.startswith(part) for name in names)


def test_metrics_are_those_of_one_run(runs):
    _, folder, _ = runs
    timings = ("seconds", "tokens_per_second")
    whole, parts = (
        [
            {k: v for k, v in line.items() if k not in timings}
            for line in read_metrics(folder / name)
            if line["split"] != "saved"
        ]
        for name in ("whole", "parts")
    )
    assert whole == parts
    assert [line["step"] for line in whole if line["split"] == "train"] == list(range(1, 11))


@pytest.mark.parametrize("lost", ["nothing", "memory", "key", "data position"])
def test_control_each_part_of_the_state_counts(runs, lost, tmp_path):
    """From the fifth step on in this process: equal if nothing is lost, else not."""
    config, folder, _ = runs
    _, state, _ = saved(config, folder / "steps5")
    if lost == "memory":
        state = state.replace(carried=state.carried.forget())
    elif lost == "key":
        state = state.replace(key=jax.random.key(99))
    step = jax.jit(functools.partial(train_step, config, make_optimizer(config)))
    losses = []
    for batch in (
        make_data(config, tmp_path).train.lanes[i + (lost == "data position")] for i in range(5, 10)
    ):
        state, sums = step(
            state, {name: batch[name] for name in ("tokens", "targets", "documents")}
        )
        losses.append(float(sums.loss) / int(sums.scored))
    expected = [
        json.loads(line)["loss"]
        for line in (folder / "whole" / "metrics.jsonl").read_text().splitlines()
        if '"train"' in line
    ][5:]
    # Not compiled with the flags of the run: rounding differs, nothing else.
    close = losses == pytest.approx(expected, rel=1e-5)
    assert close == (lost == "nothing"), (losses, expected)
