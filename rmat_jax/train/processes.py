"""Several processes of one run: how they meet, agree, fail together, and speak with one voice.

All of them make the same calls in the same order. With one process nothing here costs anything.
"""

import collections
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmat_jax import progress
from rmat_jax.errors import UserError
from rmat_jax.files import locked, make_folder

# of what processes tell each other
TEXT_BYTES = 1 << 16
# a process that is silent for so long counts as dead
HEARTBEAT_SECONDS = 60
# in an error, whatever its type: what the libraries below say when a process is gone
_LEFT_ALONE = re.compile("Gloo|onnection (reset|closed|refused)|oordination|eartbeat|UNAVAILABLE")
# How many processes a launcher has started, as Open MPI, MPICH and Slurm say.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

Result = TypeVar("Result")
_CLAIMED: list[IO[bytes]] = []


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout: int,
    workdir: Path | str,
) -> None:
    """Meets the other processes: those of the flags, else of the cluster (Cloud or GKE TPU, Slurm,
    Open MPI), else none.

    Must come before anything is computed.

    Args:
        coordinator: HOST:PORT where process 0 listens.
        num_processes: of the run; 1: do not look for a cluster.
        process_id: of this one, 0..num_processes-1.
        timeout: seconds after which the process ends with one line and exit code 2, if not all
            others have come.
        workdir: that all share.

    Raises:
        UserError: flags that do not fit together, or a launcher of several processes that JAX does
            not know.
    """
    if num_processes == 1:
        return
    given = (coordinator, num_processes, process_id)
    if any(x is not None for x in given) and None in given:
        raise UserError(
            "--coordinator, --num_processes and --process_id go together; give all three or none"
        )
    if num_processes is not None and not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} must lie in 0..{num_processes - 1}, below --num_processes"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.2:1234")

    # in a bucket there are no locks
    if process_id is not None and isinstance(workdir, Path):
        _claim(workdir, process_id)

    def give_up():
        who = "a process" if process_id is None else f"process {process_id} of {num_processes}"
        where = f" at {coordinator}" if coordinator else ""
        what = (
            "not all others came"
            if process_id == 0
            else f"the coordinator{where} did not answer, or others are missing"
        )
        _end(
            f"{who}: {what} within {timeout} s; start all processes with the same --coordinator, "
            "open its port, "
            "or set --num_processes=1 for a run of one process",
            code=2,
        )

    # JAX would abort the process with a stack trace when its own time is over, so ours is over
    # first.
    alarm = threading.Timer(timeout, give_up)
    alarm.daemon = True
    alarm.start()
    # it would swallow SIGTERM, which `signals.py` handles
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise UserError(f"the processes cannot meet: {error}") from error
        # No cluster: a run of one process, unless a launcher says otherwise, see below.
    except RuntimeError as error:
        # Where somebody has computed already, this is a process of its own, or one that has met the
        # others.
        if coordinator is not None or "must be called before" not in str(error):
            raise UserError(f"the processes cannot meet: {' '.join(str(error).split())}") from error
    finally:
        alarm.cancel()
    launched = max(int(os.environ.get(name) or 1) for name in SIZES)
    if launched > 1 and jax.process_count() == 1:
        raise UserError(
            f"this is one of {launched} processes, but JAX {jax.__version__} does not know their "
            "launcher, so each would train "
            "alone; give --coordinator, --num_processes and --process_id, or --num_processes=1 "
            "for a run of one process"
        )
    run(lambda: _check_meeting(num_processes))


def _claim(workdir: Path, process_id: int) -> None:
    """Raises UserError where another process of this workdir has the same id: JAX would abort."""
    make_folder(workdir, "--workdir")
    file = (workdir / f".process-{process_id}").open("wb")
    if not locked(file):
        raise UserError(
            f"another process of --workdir={workdir} has --process_id={process_id}; give each "
            "another"
        )
    # until this process ends
    _CLAIMED.append(file)


def _check_meeting(num_processes: int | None) -> None:
    """Raises UserError, in all processes, where they were not started alike."""
    devices = collections.Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        shown = ", ".join(f"process {index}: {count}" for index, count in sorted(devices.items()))
        raise UserError(
            f"the processes have different numbers of devices ({shown}); give each the same"
        )
    told = tell(f"{num_processes}")
    if len({*told} - {"None"}) > 1:
        shown = ", ".join(f"process {index}: {count}" for index, count in enumerate(told))
        raise UserError(
            f"the processes were started with different --num_processes ({shown}); give each the "
            "same"
        )


def is_main() -> bool:
    """Whether this process writes and speaks for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints, once for all processes."""
    if is_main():
        progress.tell(text)


def tell(text: str) -> list[str]:
    """What each process told the others, in their order. At most TEXT_BYTES of UTF-8; more are cut
    off.
    """
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0"), np.uint8)
    gathered = np.atleast_2d(multihost_utils.process_allgather(data))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in gathered]


def together(function: Callable[[], Result]) -> Result:
    """Calls it in each process; bad input of one is an error in all.

    Raises:
        UserError: what this process raised, or else the first other one that did.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    try:
        result = function()
    except UserError as caught:
        error = caught
    told = tell(str(error) if error else "")
    if error:
        raise error
    for index, message in enumerate(told):
        if message:
            raise UserError(f"process {index}: {message}")
    return result


def main_first(function: Callable[[], Result]) -> Result:
    """Calls it in process 0, then in the others, who find on disk what it has left there."""
    if jax.process_count() == 1:
        return function()
    result = together(function if is_main() else lambda: None)
    return together((lambda: result) if is_main() else function)


class Vote:
    """Does any process wish to stop? Asked at each step and answered at the next, so that nobody
    waits.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._largest = jax.jit(lambda wishes: wishes.max(), out_shardings=NamedSharding(mesh, P()))
        self._asked = None

    def ask(self, wish: int) -> int:
        """Returns the largest wish of all processes at the call before.

        With one process it is its own wish now.
        """
        if jax.process_count() == 1:
            return wish
        answer = 0 if self._asked is None else int(self._asked)
        wishes = jax.make_array_from_callback(
            (self._sharding.num_devices,), self._sharding, lambda _: np.array([wish], np.int32)
        )
        self._asked = self._largest(wishes)
        return answer


def run(function: Callable[[], int]) -> int:
    """Calls it as what this process is there for. Among several, a failure ends the process at
    once.

    Otherwise Python would wait at its exit for the others, who wait for this process in a
    collective operation.

    Raises:
        UserError: with one process, also where a device has too little memory.
    """
    try:
        return _with_memory(function)
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, UserError):
            _end(str(error), code=2, wait=is_main())
        if isinstance(error, KeyboardInterrupt):
            os._exit(130)
        if isinstance(error, jax.errors.JaxRuntimeError) or _LEFT_ALONE.search(str(error)):
            reason = " ".join(str(error).split())[:300]
            _end(
                f"process {jax.process_index()} cannot go on: another has ended, or cannot be "
                f"reached ({reason}); start all of them again: the same command goes on from the "
                "last checkpoint",
                code=1,
            )
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _with_memory(function: Callable[[], Result]) -> Result:
    try:
        return function()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a device has too little memory ({' '.join(str(error).split())[:200]}); try "
            "--config.model.remat=chunk+block, a "
            "larger --config.accumulation, --config.mesh.fsdp or --config.mesh.tensor; python -m "
            "rmat_jax plan tells what fits"
        ) from error


def _end(message: str, code: int, wait: bool = False) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    if sys.stdout:
        sys.stdout.flush()
    # process 0 is the coordinator: the others, who may have the same to say, end when it does
    if wait:
        time.sleep(2)
    os._exit(code)
