"""Strict mode, set before JAX starts: mixed ranks raise (so do warnings, see pyproject.toml); eight
virtual devices.
"""

import gc
import importlib.metadata
import os
import signal
import tempfile

# tracing makes many objects that stay: to look for circles among them all the time is slow
gc.set_threshold(200_000, 50, 100)
# tests raise them; a shell's background jobs ignore the one, nohup the other
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Tests compile hundreds of tiny programs and run each for milliseconds. Unoptimised they compile
# several times as fast.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
# later ones abort on a flag that they no longer know
if importlib.metadata.version("jaxlib") < "0.11":
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:
    # all processes of a run of the tests share what XLA has compiled
    COMPILED = tempfile.TemporaryDirectory(prefix="rmat_jax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
# a test finds nothing that another has left
os.environ["RMAT_JAX_CORPORA"] = ""
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# The files that take longest, in this order. The workers begin with them, so that none is left to
# one worker at the end.
LONGEST = [
    "train/test_processes.py",
    "interop/test_crosscheck.py",
    "laws/test_mesh.py",
    "plan/test_plan.py",
    "laws/test_streaming.py",
    "infer/test_engine.py",
    "commands/test_generate.py",
    "train/test_resume.py",
]


def pytest_xdist_auto_num_workers(config):
    """The whole suite is divided among processes; a part of it that somebody asks for by name
    begins at once, in this one.
    """
    whole = config.args == config.getini("testpaths") and not config.option.keyword
    return min(os.cpu_count() or 1, 4) if whole else 0


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        place = {config.rootpath / "tests" / name: index for index, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture
def float64():
    """The test runs with 64-bit types, which make equalities sharp."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """A process cannot hold the compiled programs of the whole suite: each takes some of the memory
    maps it may have.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A training run of one step, to be looked at only. Beside it lies its text."""
    from rmat_jax import flags
    from rmat_jax.train import loop
    from tests.train.test_resume import CONFIG, small_flags

    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("A line of text, and another.\n" * 400)
    loop.run(flags.load_config(CONFIG, small_flags(folder / "text.txt")), folder / "run", until=1)
    return folder / "run"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that the test saves, each of which must be without fault."""
    from matplotlib.figure import Figure

    from tests.figures import faults

    figures, save = [], Figure.savefig

    def checked(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        figures.append(figure)
        assert not faults(figure)

    monkeypatch.setattr(Figure, "savefig", checked)
    return figures
