"""JAX computes what PyTorch computes, and the check says so only where it is true."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rmat_jax import commands, flags
from rmat_jax.config import Config
from rmat_jax.interop import compare, crosscheck
from rmat_jax.interop.case import make_case
from rmat_jax.interop.dump import read_dump
from rmat_jax.interop.layout import random_weights
from rmat_jax.interop.run_torch import load_factory, run_torch
from tests.models import COVERING, OPTIONS, covering, name, tiny

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "interop" / "golden.safetensors"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `crosscheck`: its exit code, its standard output and error."""
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        code = flags.run(functools.partial(commands.main, ["crosscheck", *map(str, arguments)]))
        return code, *capsys.readouterr()

    return run


def case_of(**options):
    config = Config(model=tiny(**options))
    return make_case(config, random_weights(config.model, 0), steps=3)


def collect(parts):
    return {key: x for part in parts for key, x in part.items()}


@functools.cache
def golden():
    return read_dump(GOLDEN)


# every fourth one, the default among them; all triples are slow
@pytest.mark.parametrize("options", COVERING[::-4], ids=name)
def test_float64_agrees_to_nine_digits(options):
    report = crosscheck.crosscheck(case_of(**options), "float64")
    assert report.passed, report.text()
    assert not report.not_offered
    assert {d.quantity for d in report.differences} >= {
        "layer output",
        "gradient",
        "update",
        "streamed logits",
    }


@pytest.mark.slow
@pytest.mark.parametrize("options", covering(3, **OPTIONS), ids=name)
def test_float64_agrees_with_any_three_options(options):
    test_float64_agrees_to_nine_digits(options)


def test_a_small_model_passes_in_float32(run, tmp_path):
    code, table, progress = run(f"--out={tmp_path}/out.json")
    assert code == 0, table
    assert "EQUAL: 0 of 246" in table and table.count("| equal") == 10
    assert "JAX, float32: the optimiser's steps" in progress
    found = json.loads((tmp_path / "out.json").read_text())
    assert (
        found["passed"]
        and len(found["differences"]) == 246
        and torch.__version__.startswith(found["versions"]["torch"])
    )
    shares = {d["quantity"]: d["share"] for d in found["differences"]}
    # the tolerance has room for other orders of sums, and not for a fault
    assert 1e-4 < shares["layer output"] < 0.2


FAULTS = {
    "flipped_sign": ("layer output", "chunk 0, layer 1"),
    "transposed_matrix": ("layer output", "chunk 0, layer 1"),
    "rope_halves_swapped": ("layer output", "chunk 0, layer 1"),
    "gate_bias_off_by_one": ("memory", "chunk 0, layer 1"),
    "mask_off_by_one": ("layer output", "chunk 0, layer 1"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_its_layer(fault, dtype):
    case, expected, spread, _ = golden()
    actual = collect(run_torch(case, dtype, load_factory(f"tests.interop.ports:{fault}")))
    first = compare.first_difference(compare.compare(case, actual, expected, spread, dtype))
    assert (first.quantity, first.place) == FAULTS[fault]


def test_a_fault_ends_the_command_with_one_and_names_the_layer(run, tmp_path):
    code, out, _ = run(
        "--torch=tests.interop.ports:flipped_sign",
        f"--against={GOLDEN}",
        f"--out={tmp_path}/out.json",
    )
    assert code == 1
    assert (
        "first difference: the output of layer 1 in chunk 0" in out
        and "the layers below it agree" in out
    )
    assert not json.loads((tmp_path / "out.json").read_text())["passed"]


def test_what_a_port_does_not_offer_is_named(run):
    code, out, _ = run("--torch=tests.interop.ports:bare", f"--against={GOLDEN}")
    assert code == 0 and "| logits " in out and "| gradient " not in out
    missing = (
        "layer output, memory, gradient, training loss, gradient norm, update, streamed "
        "logits, streamed memory"
    )
    assert f"not compared, since the module does not offer it: {missing}" in out


@pytest.mark.parametrize("framework", ["jax", "torch"])
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
def test_the_golden_dump_is_still_computed(framework, dtype, run):
    """Made by: python -m rmat_jax crosscheck --config=tests/interop/golden_config.py --steps=4
    --dump=FILE
    """
    code, out, _ = run(f"--against={GOLDEN}", f"--framework={framework}", f"--dtype={dtype}")
    assert code == 0, out


def test_a_dump_that_expects_something_else_is_not_met(tmp_path):
    """The control: one result of the golden dump changed by a millionth."""
    case, expected, spread, _ = golden()
    key = ("logits", "chunk 1")
    wrong = expected | {
        key: expected[key]
        * (1 + 1e-6 * (np.arange(expected[key].size) == 7).reshape(expected[key].shape))
    }
    found = compare.compare(case, collect(run_torch(case, "float64")), wrong, spread, "float64")
    assert [(d.quantity, d.place) for d in found if not d.passed] == [key]


def test_a_new_dump_holds_what_the_old_one_holds(run, tmp_path):
    file = tmp_path / "new.safetensors"
    assert run("--config=tests/interop/golden_config.py", "--steps=4", f"--dump={file}")[0] == 0
    (case, expected, spread, _), (_, new, new_spread, _) = golden(), read_dump(file)
    assert all(d.passed for d in compare.compare(case, new, expected, spread, "float64"))
    assert list(new_spread) == list(spread)
    np.testing.assert_allclose(list(new_spread.values()), list(spread.values()), rtol=1e-3)


def test_a_replay_in_pytorch_needs_no_jax():
    block = (
        "import sys; sys.modules.update(dict.fromkeys(['jax', 'jaxlib', 'flax', 'optax', "
        "'orbax'])); "
    )
    replay = (
        "from rmat_jax import commands; sys.exit(commands.main(['crosscheck', "
        f"'--against={GOLDEN}', '--framework=torch']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", block + replay], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    control = subprocess.run(
        [sys.executable, "-c", block + "import rmat_jax.model"], cwd=ROOT, capture_output=True
    )
    assert control.returncode


def cut(file):
    file.write_bytes(GOLDEN.read_bytes()[:-100])


def flip(file):
    data = bytearray(GOLDEN.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)


BAD = {
    "no such dump": (["--against=nowhere.safetensors"], ["nowhere.safetensors", "--dump"]),
    "a dump cut short": (
        ["--against={cut}"],
        ["is no safetensors file, or damaged", "damaged", "make the dump anew"],
    ),
    "a dump with a flipped bit": (["--against={flip}"], ["is damaged"]),
    "something else": (["--against={foreign}"], ["the format None", "rmat_jax dump 2"]),
    "a model beside a dump": (
        [f"--against={GOLDEN}", "--steps=3"],
        ["--steps cannot go with --against"],
    ),
    "a framework without a dump": (["--framework=torch"], ["--framework goes with --against"]),
    "a port that is dumped": (["--torch=a:b", "--dump=x"], ["--torch", "--dump"]),
    "two models": (["--workdir=x", "--config=configs/quickstart.py"], ["--workdir and --config"]),
    "no steps": (["--steps=0"], ["steps=0 must be positive"]),
    "a seed below zero": (["--seed=-1"], ["seed=-1"]),
    "no such folder": (["--out=nowhere/out.json"], ["nowhere", "make it first"]),
    "no such run": (["--workdir=nowhere"], ["nowhere", "no checkpoint"]),
    "a port without a colon": (["--torch=ports"], ["--torch=ports", "package.module:function"]),
    "a port of no module": (["--torch=no_port:f"], ["no_port", "ModuleNotFoundError"]),
    "a port of no function": (
        ["--torch=tests.interop.ports:nothing"],
        ["nothing", "AttributeError"],
    ),
    "a port that is no function": (["--torch=tests.interop.ports:no_function"], ["is a int"]),
    "a port that fails": (
        [f"--against={GOLDEN}", "--torch=tests.interop.ports:broken"],
        ["KeyError", "q_proj"],
    ),
    "a port that ends the program": (
        [f"--against={GOLDEN}", "--torch=tests.interop.ports:ends"],
        ["ports:ends failed: SystemExit"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, run, tmp_path):
    arguments, parts = BAD[case]
    files = {word: tmp_path / word for word in ("cut", "flip", "foreign")}
    cut(files["cut"])
    flip(files["flip"])
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, files["foreign"])
    code, _, err = run(*(argument.format(**files) for argument in arguments))
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("error: "), err
    assert all(part in last for part in parts), last


def test_the_steps_are_those_of_adamw_whatever_the_run_has():
    more = {"optim.name": "lion", "optim.schedule": "constant", "optim.ema": 0.9}
    config = flags.changed(Config(model=tiny()), more)
    weights = random_weights(config.model, 0)
    optim = make_case(config, weights, steps=3).config.optim
    assert (optim.name, optim.schedule, optim.ema) == ("adamw", "cosine", 0.0)
    # the control: what is not the optimiser stays
    assert optim.weight_decay == config.optim.weight_decay
