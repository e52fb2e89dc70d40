"""Strict mode, set before JAX starts: mixed ranks raise (so do warnings, see pyproject.toml); eight virtual devices."""

import importlib.util
import mmap
import os
import pathlib


def _known(flag: str) -> bool:
    """Whether this jaxlib has the XLA flag: it aborts on one that it does not know."""
    for path in pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent.glob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(flag.encode()) >= 0:
                return True
    return False


# Tests compile hundreds of tiny programs and run each for milliseconds. These two make compiling five times as fast.
FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
}
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={value}" for name, value in FLAGS.items() if _known(name))]
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """The test runs with 64-bit types, which make equalities sharp."""
    with jax.enable_x64(True):
        yield
