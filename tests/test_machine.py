"""What the C library does with freed memory: seen in the page faults of a fresh process."""

import platform
import subprocess
import sys

import pytest

from rmat_jax import machine
from tests.test_public import ROOT

FAULTS = """
import resource
import numpy as np
from rmat_jax.machine import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(1 << 23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the option")
def test_freed_blocks_are_kept_for_the_next_step():
    """Four blocks of 64 MiB; the control is the same before. Large pages make fewer faults."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, after = map(int, run.stdout.split())
    assert after < 100 and before > 10 * max(after, 10)


def test_the_fullest_device_counts(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    # a CPU counts nothing
    assert machine.peak_bytes() is None
    some = [Device(None), Device({"peak_bytes_in_use": 5}), Device({"peak_bytes_in_use": 7})]
    monkeypatch.setattr(machine.jax, "local_devices", lambda: some)
    assert machine.peak_bytes() == 7
