"""What this process runs on, as reports name it.

May import: jax.
"""

import os

import jax


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def hardware() -> str:
    """Names the devices: "2 CPU cores", or "8 x TPU v4"."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{num_cores()} CPU cores"
    return f"{jax.device_count()} x {device.device_kind}"
