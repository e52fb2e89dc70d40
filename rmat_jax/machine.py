"""The machine that this process runs on, as reports name it.

May import: jax.
"""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

import jax

# glibc, malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def hardware() -> str:
    """Names the devices: "2 CPU cores", or "8 x TPU v4"."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{num_cores()} CPU cores"
    return f"{jax.device_count()} x {device.device_kind}"


def facts() -> dict:
    """The facts on which measured figures depend."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.is_file() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else platform.processor() or platform.machine()
    return {
        "device": name,
        "backend": device.platform,
        "threads": num_cores(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def load() -> float:
    """The load average of the last minute; 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def peak_bytes() -> int | None:
    """The most bytes that this process's fullest device has held at once; None where they are not
    counted, as on CPUs.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


def keep_memory() -> None:
    """Lets the C library keep memory that a step has freed for the next step, up to 1 GiB a block.

    glibc gives blocks of more than 32 MiB back to the system. A step on CPUs takes its temporaries
    as one block, so the system would have to clear all their pages again in every step. Without
    glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, 2**30)
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)
