"""Trained weights are found wherever they lie, and stay in the type that they were saved in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax import commands, flags, runs
from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.evals import suite
from rmat_jax.infer import open_chunk, streams
from rmat_jax.interop.convert import export_weights
from rmat_jax.interop.weights import SHIPPED, read_weights, write_weights
from rmat_jax.model import RMAT
from rmat_jax.runs import load_engine, load_run
from tests.train.test_resume import ROOT


def test_a_run_is_loaded_with_its_model_and_tokenizer(workdir):
    model, params, tokenizer = load_run(str(workdir))
    assert model.config.vocab_size == tokenizer.vocab_size == 257
    assert params["output"].shape == (257, model.config.width)
    engine = load_engine(workdir, rows=1)
    session = engine.open("A line")
    assert len("".join(session.write(max_new_tokens=3, temperature=0))) <= 3


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        load_run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_engine_has_rows(workdir):
    with pytest.raises(UserError, match="rows=0"):
        load_engine(workdir, rows=0)


def test_weights_that_are_no_numbers_are_refused(workdir, monkeypatch):
    from rmat_jax.train import checkpoint

    restore = checkpoint.restore_params

    def lost(*args):
        found = restore(*args)
        output = found.params["output"].at[3, 1].set(float("nan"))
        return found._replace(params=found.params | {"output": output})

    for module, load in ((checkpoint, load_run), (suite, suite.load_subject)):
        # the control
        load(workdir)
        monkeypatch.setattr(module, "restore_params", lost)
        with pytest.raises(UserError, match="step 1 of .*run: output holds NaN or infinity"):
            load(workdir)


def size_of(params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_bfloat16_weights_stay_so_and_compute_what_their_values_say(workdir, tmp_path):
    """Half the memory; the logits are those of the same values in float32, and near the run's."""
    half, wide = tmp_path / "half.safetensors", tmp_path / "wide.safetensors"
    export_weights(workdir, half, "bfloat16")
    config, tensors, _ = read_weights(half)
    runs_own = load_engine(workdir, rows=1)
    write_weights(wide, config, tensors)
    engine, widened = load_engine(half, rows=1), load_engine(wide, rows=1)
    types = {True: set(), False: set()}
    for leaf in jax.tree.leaves(engine.params):
        types[leaf.ndim > 1].add(leaf.dtype.name)
    assert types == {True: {"bfloat16"}, False: {"float32"}}
    assert size_of(engine.params) < 0.53 * size_of(widened.params)

    def logits(engine):
        session = engine.open("A line of text, and another. " * 3)
        return np.asarray(engine.standing(session)[0].logits_BV)

    found, expected, exact = map(logits, (engine, widened, runs_own))
    largest = np.abs(exact).max()
    assert np.abs(found - expected).max() < 1e-6 * largest
    # the rounding of the weights, 2^-9, over some sums
    assert 1e-5 * largest < np.abs(found - exact).max() < 0.05 * largest


@pytest.mark.parametrize("in_time", [True, False], ids=["", "control"])
def test_writing_holds_no_wide_copy_of_narrow_weights(in_time, monkeypatch):
    """What the loop over tokens needs besides its arguments, in bytes. Nothing is computed."""
    if not in_time:
        monkeypatch.setattr(open_chunk, "_in_time", lambda config, weights, x: weights)
    # a config of its own each, since programs are kept
    config = RMATConfig(
        vocab_size=64, width=128, num_layers=12, num_heads=2, chunk_len=16 + 16 * in_time
    )
    model = RMAT(config)

    def abstract(dtype):
        params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        narrow = jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 2 else x, params)
        return open_chunk.unstack_params(narrow)

    wide, narrow = (
        jax.eval_shape(lambda dtype=dtype: abstract(dtype)) for dtype in ("float32", "bfloat16")
    )
    of_one = jax.eval_shape(lambda: streams.begin(model, 1))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    types = "int32", "uint32", "float32", "int32", "float32"
    rules = (jax.ShapeDtypeStruct((1,), jnp.dtype(name)) for name in types)
    asked = streams.Requests(*rules, jax.ShapeDtypeStruct((1, 64), jnp.bool_))
    lowered = streams.decode.lower(model, narrow, of_one, asked, number, number, number)
    spent = lowered.compile().memory_analysis().temp_size_in_bytes
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(wide))
    # a few layers' at a time, not all
    assert (spent < 0.5 * size) == in_time


def test_the_package_has_a_trained_model(capsys, monkeypatch, tmp_path):
    """It is that of configs/quickstart.py, so that a run can begin with it, and it has learnt
    something of Python.
    """
    engine = load_engine(rows=1)
    assert engine.model.config.meaning() == flags.load_config("quickstart").model.meaning()
    card = (SHIPPED / "README.md").read_text()
    assert f"{sum(x.size for x in jax.tree.leaves(engine.params)):,} parameters" in card
    text = (ROOT / "rmat_jax" / "progress.py").read_bytes()[:2000]

    def bits(engine, text):
        (cost,) = engine.costs([(engine.open(), text)])
        return cost.total / np.log(2) / len(text)

    assert bits(engine, text) < 2.7
    # the control: the same bytes in another order
    assert bits(engine, bytes(sorted(text))) > 2.7 or bits(engine, text[::-1]) > 3.5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    capsys.readouterr()
    assert commands.main(["generate", "--prompt=def main(", "--max_new_tokens=5"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("no --workdir: this is the small model that comes with rmat_jax")
    assert (
        commands.main(["generate", "--prompt=a", "--max_new_tokens=5", "--workdir=quickstart"]) == 0
    )
    assert "no --workdir" not in capsys.readouterr().err
    assert runs.load_run("quickstart")[2].describe == "bytes"
