"""Law 5 across processes, and checkpoints across shapes: the real command, several at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.reliability import (
    ROOT,
    final_digests,
    free_port,
    launch,
    overrides,
    start,
    write_text,
)
from rmat_jax import flags
from rmat_jax.errors import UserError
from rmat_jax.train import loop, processes, sharding
from rmat_jax.train.checkpoint import restore_params
from rmat_jax.train.metrics import read_metrics

CONFIG = str(ROOT / "configs/quickstart.py")
QUIET = {"steps": 40, "log.eval_every": 0, "log.save_every": 0}
EVALUATED = {"log.eval_every": 20}
# see laws/test_mesh.py; the learning rate is half of that there
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_text(folder / "text")
    return folder


def given(folder: Path, **values) -> list[str]:
    return overrides(folder / "text", **(QUIET | values))


def finish(started) -> list[int]:
    return [process.wait(timeout=240) for process in started]


def log(workdir: Path, index: int) -> str:
    return Path(f"{workdir}.{index}.log").read_text("utf-8")


def train_here(folder: Path, name: str, until: int, **values) -> None:
    """In this process, which has eight virtual devices; axes of the mesh are given by name."""
    axes = {axis: values.pop(axis) for axis in sharding.AXES if axis in values}
    values |= {f"mesh.{axis}": size for axis, size in axes.items()}
    config = flags.load_config(CONFIG, given(folder, **values))
    assert loop.run(config, folder / name, until=until) == 0


def losses(workdir: Path) -> np.ndarray:
    lines = [line for line in read_metrics(workdir) if line["split"] == "train"]
    # each once
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return np.array([line["loss"] for line in lines])


@pytest.fixture(scope="module")
def one_device(folder):
    """20 steps on one device."""
    train_here(folder, "one", 20, data=1, **EVALUATED)
    return folder / "one"


@pytest.fixture(scope="module")
def two_processes(folder):
    """20 steps on 2 processes x 2 devices."""
    started = start(folder / "two", 2, 2, *given(folder, **EVALUATED), "--until=20")
    assert finish(started) == [0, 0], log(folder / "two", 0)
    return folder / "two"


def test_two_processes_train_like_one_device(one_device, two_processes):
    np.testing.assert_allclose(losses(two_processes), losses(one_device), rtol=0, atol=TOLERANCE)
    (expected, *_), (actual, *_) = (
        restore_params(w / "checkpoints") for w in (one_device, two_processes)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE), actual, expected
    )
    one, two = (
        [line for line in read_metrics(w) if line["split"] == "heldout"]
        for w in (one_device, two_processes)
    )
    assert len(one) == len(two) == 1
    for name in ("bits_per_byte", "bits_per_byte_without_memory"):
        # 8 bits a byte or so
        np.testing.assert_allclose(one[0][name], two[0][name], rtol=0, atol=10 * TOLERANCE)
    assert len(losses(two_processes)) == 20 and losses(two_processes)[-1] < losses(two_processes)[0]


def test_one_process_speaks(two_processes):
    first, second = log(two_processes, 0), log(two_processes, 1)
    assert "4 x cpu, float32, data=4 (jit), 2 processes" in first
    assert "saved at step 20 of 40" in first
    assert "step" not in second.replace("steps", ""), second


def test_saved_on_two_processes_resumed_on_one(folder, one_device, two_processes):
    """And with other axes. The next steps are those of the run that went on."""
    shutil.copytree(two_processes, folder / "fewer processes")
    train_here(folder, "fewer processes", 30, data=1, fsdp=2)
    shutil.copytree(one_device, folder / "one goes on")
    train_here(folder, "one goes on", 30, data=1)
    np.testing.assert_allclose(
        losses(folder / "fewer processes"), losses(folder / "one goes on"), rtol=0, atol=TOLERANCE
    )


# a lane's time on up to eight devices
LONG = {"chunks_per_step": 8}


@pytest.fixture(scope="module")
def eight_devices(folder):
    train_here(folder, "eight", 20, data=4, fsdp=2, **LONG)
    return losses(folder / "eight")


def test_saved_on_eight_devices_resumed_on_one_and_on_eight(folder, eight_devices):
    """Those that share a lane's time among them."""
    for until, mesh in (
        (5, {"data": 4, "fsdp": 2}),
        (10, {"data": 1, "context": 8}),
        (15, {"data": 1}),
        (20, {"data": 2, "context": 4}),
    ):
        train_here(folder, "fewer", until, **mesh, **LONG)
    np.testing.assert_allclose(losses(folder / "fewer"), eight_devices, rtol=0, atol=TOLERANCE)


def test_a_lane_spans_two_processes(folder, eight_devices):
    more = ["--config.mesh.context=4", "--until=10"]
    started = start(folder / "spans", 2, 2, *given(folder, **LONG), *more)
    assert finish(started) == [0, 0], log(folder / "spans", 0)
    assert "context=4 (jit), 2 processes" in log(folder / "spans", 0)
    np.testing.assert_allclose(losses(folder / "spans"), eight_devices[:10], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_and_the_same_command_ends_the_same(
    folder, two_processes
):
    """benchmarks/reliability.py does so at random instants, and kills."""
    workdir = folder / "term"
    started = start(workdir, 2, 2, *given(folder), "--until=20")
    until = time.monotonic() + 120
    while "step 1/" not in log(workdir, 0) and time.monotonic() < until:
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    assert finish(started) == [128 + signal.SIGTERM] * 2
    assert "SIGTERM: saving" in log(workdir, 1) and "SIGTERM" not in log(workdir, 0)
    assert 1 <= len(losses(workdir)) < 20
    assert finish(start(workdir, 2, 2, *given(folder), "--until=20")) == [0, 0]
    assert "resuming from step" in log(workdir, 0)
    # bit for bit
    assert final_digests(workdir) == final_digests(two_processes)


def one_line(workdir: Path, index: int, *parts: str) -> None:
    lines = [
        line for line in log(workdir, index).splitlines() if line and not line.startswith("[Gloo]")
    ]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for part in parts:
        assert part in lines[0]


@pytest.mark.slow
def test_what_one_process_cannot_read_is_damaged_for_all(folder, two_processes):
    """Both go on from the step before; the end is the same."""
    steps = sorted(int(path.name) for path in (folder / "term" / "checkpoints").iterdir())
    assert len(steps) == 2 and steps[1] == 20
    workdir = folder / "damaged"
    shutil.copytree(folder / "term", workdir)
    for file in (workdir / "checkpoints" / "20" / "state" / "ocdbt.process_1" / "d").iterdir():
        # of process 1's lanes
        file.unlink()
    assert finish(start(workdir, 2, 2, *given(folder), "--until=20")) == [0, 0]
    assert f"warning: step 20 of {workdir / 'checkpoints'} is damaged" in log(workdir, 0)
    assert f"resuming from step {steps[0]}" in log(workdir, 0)
    assert final_digests(workdir) == final_digests(two_processes)


@pytest.mark.parametrize(
    ("flags_of", "what"),
    [
        (("--config.steps=30", "--config.steps=40"), "steps is 30 in process 0, 40 here"),
        pytest.param(
            ("--until=10", "--until=20"),
            "until is 10 in process 0, 20 here",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_processes_with_different_flags(folder, flags_of, what):
    workdir, port = folder / what.split()[0], free_port()
    assert finish(
        [launch(workdir, port, i, 2, 1, *given(folder), flags_of[i]) for i in range(2)]
    ) == [2, 2]
    one_line(workdir, 0, f"process 1: {what}; start all processes with the same command")
    one_line(workdir, 1, what)


@pytest.mark.slow
def test_processes_that_do_not_share_a_disk(folder):
    workdirs, port = (folder / "here", folder / "there"), free_port()
    assert finish([launch(workdirs[i], port, i, 2, 1, *given(folder)) for i in range(2)]) == [2, 2]
    one_line(
        workdirs[1], 1, "there is not the same disk for all processes; choose one that they share"
    )


@pytest.mark.parametrize(
    ("processes", "devices", "what"),
    [
        ((2, 2), (1, 2), "different numbers of devices (process 0: 1, process 1: 2)"),
        pytest.param(
            (2, 3),
            (1, 1),
            "different --num_processes (process 0: 2, process 1: 3)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_processes_that_were_started_unlike(folder, processes, devices, what):
    workdir, port = folder / f"unlike{processes[1]}", free_port()
    started = [launch(workdir, port, i, processes[i], devices[i], *given(folder)) for i in range(2)]
    assert finish(started) == [2, 2]
    for index in range(2):
        one_line(workdir, index, f"{what}; give each the same")


@pytest.mark.slow
def test_one_id_twice_ends_the_second_alone(folder):
    workdir, port = folder / "twice", free_port()
    first = launch(workdir, port, 1, 2, 1, *given(folder), "--until=1")
    claimed = workdir / ".process-1"
    until = time.monotonic() + 60
    while not claimed.exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    second = launch(workdir, port, 1, 2, 1, *given(folder), "--until=1")
    assert finish([second]) == [2]
    one_line(workdir, 1, "another process of", "has --process_id=1; give each another")
    assert finish([launch(workdir, port, 0, 2, 1, *given(folder), "--until=1"), first]) == [0, 0]


@pytest.mark.parametrize(("index", "what"), [(0, "not all others came"), (1, "did not answer")])
def test_processes_that_do_not_come(folder, index, what):
    workdir, begun = folder / f"alone{index}", time.monotonic()
    assert finish(
        [launch(workdir, free_port(), index, 2, 1, *given(folder), "--start_timeout=3")]
    ) == [2]
    one_line(workdir, index, f"process {index} of 2", what, "within 3 s", "--num_processes=1")
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("10.0.0.2:1234", 2, None), "give all three or none"),
        (("10.0.0.2:1234", 2, 2), r"--process_id=2 must lie in 0..1"),
        (("10.0.0.2", 2, 0), "--coordinator=10.0.0.2 must be HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together(values, message, tmp_path):
    with pytest.raises(UserError, match=message):
        processes.connect(*values, timeout=1, workdir=tmp_path)


def test_too_little_memory_is_said_in_one_line():
    def exhausted(message):
        raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(UserError, match="too little memory .*9.7G.*remat=chunk.block.*mesh.fsdp"):
        processes.run(lambda: exhausted("RESOURCE_EXHAUSTED: Attempting to allocate 9.7G."))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        processes.run(lambda: exhausted("INTERNAL: another error"))


MEET = """
import jax, sys
from rmat_jax.train import processes
processes.connect(None, None, None, timeout=60, workdir=None)
print(jax.process_index(), jax.process_count(), processes.tell(f"I am {jax.process_index()}"))
"""
# the variables that a launcher sets for process `index` of 2, by a job's number
CLUSTERS = {
    "Slurm": lambda job, index: {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    },
    "Open MPI": lambda job, index: {
        "OMPI_MCA_orte_hnp_uri": f"{job << 12}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
    },
}


def meet(environments: list[dict[str, str]]) -> list[str]:
    """What processes with these variables say when they have met."""
    command, given = (
        [sys.executable, "-c", MEET],
        {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True},
    )
    started = [
        subprocess.Popen(command, env=os.environ | {"XLA_FLAGS": ""} | e, **given)
        for e in environments
    ]
    return [process.communicate(timeout=120)[0].splitlines()[-1] for process in started]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_processes_find_each_other_through_the_cluster(cluster):
    job, heard = free_port(), ["I am 0", "I am 1"]
    said = meet([CLUSTERS[cluster](job, index) for index in range(2)])
    assert said == [f"0 2 {heard}", f"1 2 {heard}"]


def test_control_without_a_cluster_a_process_is_alone():
    assert meet([{}]) == ["0 1 ['I am 0']"]


def test_a_launcher_that_nobody_knows_is_no_run_of_one(monkeypatch, tmp_path):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match="one of 2 processes, .* each would train alone; give --coordinator"
    ):
        processes.connect(None, None, None, timeout=5, workdir=tmp_path)
    processes.connect(None, 1, None, timeout=5, workdir=tmp_path)
