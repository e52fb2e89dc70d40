"""Several processes of one run: they connect, agree, fail together, and only one of them prints.

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

# the size of a text that processes tell each other
TEXT_BYTES = 1 << 16
# a process that is silent for so long counts as dead
HEARTBEAT_SECONDS = 60
# matches errors, of any type, of the libraries below when another process is gone
_LEFT_ALONE = re.compile("Gloo|onnection (reset|closed|refused)|oordination|eartbeat|UNAVAILABLE")
# where Open MPI, MPICH and Slurm say how many processes were started
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
    """Connects to the other processes: those of the flags, else of the cluster (Cloud or GKE TPU,
    Slurm, Open MPI), else none.

    Must be called before anything is computed.

    Args:
        coordinator: HOST:PORT where process 0 listens.
        num_processes: the number of processes; 1: do not look for a cluster.
        process_id: the number of this process, 0..num_processes-1.
        timeout: seconds after which the process ends with one line and exit code 2, if not all
            others have connected.
        workdir: the workdir, which all processes share.

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

    # a bucket has no locks
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

    # At its timeout JAX would abort the process with a stack trace, so ours is shorter.
    alarm = threading.Timer(timeout, give_up)
    alarm.daemon = True
    alarm.start()
    # this service would swallow SIGTERM, which `signals.py` handles
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
        # There is no cluster, so this is a run of one process, unless a launcher says otherwise.
    except RuntimeError as error:
        # JAX has computed before this call, so the process runs alone, or is connected already.
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
    """Locks this process's id in the workdir. With two equal ids JAX would abort.

    Raises:
        UserError: another process has the id.
    """
    make_folder(workdir, "--workdir")
    file = (workdir / f".process-{process_id}").open("wb")
    if not locked(file):
        raise UserError(
            f"another process of --workdir={workdir} has --process_id={process_id}; give each "
            "another"
        )
    # keeps the lock until this process ends
    _CLAIMED.append(file)


def _check_meeting(num_processes: int | None) -> None:
    """Raises UserError in all processes where their flags or their numbers of devices differ."""
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
    """Whether this process, process 0, writes and prints for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a text once, in process 0."""
    if is_main():
        progress.tell(text)


def tell(text: str) -> list[str]:
    """Tells a text to all processes. Returns the texts of all, in the order of their numbers.

    A text is cut off after TEXT_BYTES of UTF-8.
    """
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0"), np.uint8)
    gathered = np.atleast_2d(multihost_utils.process_allgather(data))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in gathered]


def together(function: Callable[[], Result]) -> Result:
    """Calls a function in each process. A UserError in one of them is raised in all.

    Raises:
        UserError: the error of this process, or else of the first other process that has one.
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
    """Calls a function in process 0, then in the others, which find its files on disk."""
    if jax.process_count() == 1:
        return function()
    result = together(function if is_main() else lambda: None)
    return together((lambda: result) if is_main() else function)


class Vote:
    """A vote of all processes on stopping. Each step gets the answer to the question of the step
    before, so that no process waits.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._largest = jax.jit(lambda wishes: wishes.max(), out_shardings=NamedSharding(mesh, P()))
        self._asked = None

    def ask(self, wish: int) -> int:
        """Returns the largest wish of all processes at the call before.

        With one process the answer is `wish`.
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
    """Calls the main function of a process. With several processes, a failure ends this one at
    once.

    Otherwise Python would wait at its exit for the other processes, which wait for this one in a
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
                f"process {jax.process_index()} cannot go on: another process has ended, or cannot "
                f"be reached ({reason}); start all of them again, and the same command goes on "
                "from the last checkpoint",
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
    # Process 0 is the coordinator. The others end with it, and may have an error to print.
    if wait:
        time.sleep(2)
    os._exit(code)
