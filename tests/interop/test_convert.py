"""Export and import: the same parameters, bit for bit; an imported workdir is like any other."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from rmat_jax import commands, flags
from rmat_jax.config import Config
from rmat_jax.data.tokenizer import BPETokenizer
from rmat_jax.data.tokenizer_files import keep_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.flags import changed
from rmat_jax.interop.convert import export_weights, import_run, import_weights
from rmat_jax.interop.layout import from_jax, layout, random_weights
from rmat_jax.interop.weights import read_weights, write_weights
from rmat_jax.runs import load_run
from rmat_jax.train import loop
from rmat_jax.train.checkpoint import digests, restore_params
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import init_state
from tests import models
from tests.train.test_resume import CONFIG, saved, small_flags


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """run: of 2 steps, with byte pairs; begin: the import of what it began with; mine: the import
    of what it ended with.
    """
    folder = tmp_path_factory.mktemp("convert")
    (folder / "text.txt").write_text(
        "".join(f"{i} lines of text, and {i * i} more.\n" for i in range(600))
    )
    config = config_of(folder)
    loop.run(config, folder / "run", until=2)
    tokenizer = (folder / "run" / "tokenizer" / "tokenizer.json").read_text()
    state = jax.jit(functools.partial(init_state, config, make_optimizer(config)))()
    write_weights(
        folder / "begin.safetensors",
        config,
        from_jax(config.model, state.params),
        tokenizer=tokenizer,
    )
    import_weights(folder / "begin", folder / "begin.safetensors")
    export_weights(folder / "run", folder / "run.safetensors")
    import_weights(folder / "mine", folder / "run.safetensors")
    return folder


CHANGES = {
    "data.tokenizer": "bpe",
    "model.vocab_size": 300,
    "model.dropout": 0,
    "accumulation": 1,
    "log.eval_every": 0,
    # two steps change much
    "optim.learning_rate": 0.05,
    "optim.warmup_steps": 0,
}


def config_of(folder):
    more = [f"--config.{key}={value}" for key, value in CHANGES.items()]
    return flags.load_config(CONFIG, [*small_flags(folder / "text.txt"), *more])


def test_checkpoint_export_import_gives_equal_bits(folder):
    (params, values, step, _), (other, other_values, other_step, _) = (
        restore_params(folder / name / "checkpoints") for name in ("run", "mine")
    )
    assert (step, other_step) == (2, 0) and values == other_values
    assert digests(params) == digests(other)
    assert all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True)
    )
    for name in ("config.json", "tokenizer/tokenizer.json"):
        assert (folder / "mine" / name).read_bytes() == (folder / "run" / name).read_bytes()
    metadata = read_weights(folder / "run.safetensors")[2]
    assert set(metadata) == {"format", "config", "step", "tokenizer"} and metadata["step"] == "2"


def test_export_import_export_gives_equal_files(folder, tmp_path):
    """But for the step, which an import begins anew."""

    def export(workdir, name, dtype=None):
        export_weights(workdir, tmp_path / name, dtype)
        return tmp_path / name

    def as_step_0(file):
        config, tensors, metadata = read_weights(file)
        rest = {key: metadata[key] for key in metadata.keys() - {"format", "config"}}
        dtype = "bfloat16" if file.name.startswith("half") else None
        write_weights(tmp_path / "rewritten", config, tensors, dtype, **rest | {"step": "0"})
        return (tmp_path / "rewritten").read_bytes()

    one, two = export(folder / "run", "one"), export(folder / "mine", "two")
    assert as_step_0(one) == two.read_bytes() != one.read_bytes()
    import_weights(tmp_path / "again", two)
    assert export(tmp_path / "again", "three").read_bytes() == two.read_bytes()

    half = export(folder / "run", "half", "bfloat16")
    import_weights(tmp_path / "halves", half)
    assert export(tmp_path / "halves", "half again", "bfloat16").read_bytes() == as_step_0(half)
    # the control
    assert export(folder / "begin", "other", "bfloat16").read_bytes() != as_step_0(half)


def test_float64_comes_back(tmp_path):
    config = Config(model=models.TINY)
    write_weights(tmp_path / "one", config, random_weights(config.model, 0), step="0")
    assert "float64" in import_weights(tmp_path / "run", tmp_path / "one")
    export_weights(tmp_path / "run", tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_imported_workdir_trains_on_as_the_run_did(folder, tmp_path):
    """Two steps from where the run began, everything is equal: parameters, optimiser, memory, key,
    place in the data.
    """
    config = config_of(folder)
    shutil.copytree(folder / "begin", tmp_path / "run")
    assert loop.run(config, tmp_path / "run", until=2) == 0
    (step, one, meta), (other_step, other, other_meta) = (
        saved(config, at / "run") for at in (folder, tmp_path)
    )
    assert step == other_step == 2 and digests(one) == digests(other)
    # from here on the data may not change
    assert meta["data"] == other_meta["data"]


def test_an_imported_workdir_writes_the_same_text(folder, capfdbinary):
    def write(name):
        capfdbinary.readouterr()
        assert (
            commands.main(
                [
                    "generate",
                    f"--workdir={folder / name}",
                    "--prompt=12 lines",
                    "--max_new_tokens=20",
                ]
            )
            == 0
        )
        return capfdbinary.readouterr().out

    text = write("run")
    assert len(text) > 10 and write("mine") == text
    # the control
    assert write("begin") != text


def test_the_commands_say_what_they_did(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    file = tmp_path / "x.safetensors"
    count = len(layout(config_of(folder).model))
    assert (
        commands.main(
            ["export", f"--workdir={folder / 'run'}", f"--file={file}", "--dtype=bfloat16"]
        )
        == 0
    )
    size = file.stat().st_size
    out = capsys.readouterr().out
    assert out.startswith(f"written: {file}: {count} tensors, ") and out.count("\n") == 1
    assert f"{size:,} bytes, bfloat16, step 2" in out
    assert commands.main(["import", f"--workdir={tmp_path / 'run'}", f"--file={file}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"made: {tmp_path / 'run'}: {count} tensors, ") and out.count("\n") == 1
    assert f"{size:,} bytes read, float32, step 2 there, step 0 here" in out

    before = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    for arguments, message in [
        (
            ["import", f"--workdir={folder / 'run'}", f"--file={file}"],
            "has checkpoints of a run; choose another",
        ),
        (["import", f"--workdir={file}", f"--file={file}"], "cannot be written: File exists"),
        (
            [
                "import",
                f"--workdir={tmp_path / 'z'}",
                f"--file={file}",
                "--config=configs/quickstart.py",
            ],
            "another model",
        ),
        (["export", f"--workdir={tmp_path / 'no'}", f"--file={file}"], "no checkpoint"),
        (
            ["export", f"--workdir={folder / 'run'}", f"--file={tmp_path / 'no' / 'x.st'}"],
            "cannot be written",
        ),
        (
            ["export", f"--workdir={folder / 'run'}", f"--file={file}", "--dtype=int8"],
            "invalid choice: 'int8'",
        ),
    ]:
        assert flags.run(lambda: commands.main(arguments)) == 2  # noqa: B023 (called here)
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err, (
            captured.err
        )
    # nothing lost
    assert before == {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert not (tmp_path / "z").exists() and not (tmp_path / "no").exists()


def test_a_config_beside_the_file(folder, tmp_path):
    config = config_of(folder)
    other = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=1e-5))
    import_weights(tmp_path / "run", folder / "run.safetensors", other)
    assert restore_params(tmp_path / "run" / "checkpoints").config["optim"]["learning_rate"] == 1e-5
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["learning_rate"] == 1e-5
    )


def test_weights_go_with_the_tokenizer_they_were_trained_with(folder, tmp_path):
    """Another one, whole and with a digest of its own, would read other ids."""
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    load_run(run)
    other = BPETokenizer.train(iter([b"Another text, with other pairs. " * 50]), 300)
    keep_tokenizer(other.files(), run / "tokenizer")
    for load in (load_run, lambda run: export_weights(run, tmp_path / "weights")):
        with pytest.raises(UserError, match="another tokenizer than the weights were trained with"):
            load(run)
    # the control: imported weights know no text, and take the one that lies there
    shutil.copytree(folder / "mine", tmp_path / "mine")
    keep_tokenizer(other.files(), tmp_path / "mine" / "tokenizer")
    load_run(tmp_path / "mine")


def test_a_tokenizer_that_is_missing_or_none(folder, tmp_path):
    config, tensors, metadata = read_weights(folder / "run.safetensors")
    for more, message in [
        ({}, "has no tokenizer in its metadata, and data.tokenizer='bpe'; save it with"),
        ({"tokenizer": "{}"}, "the tokenizer in the metadata of .* is not a tokenizer"),
    ]:
        write_weights(tmp_path / "x", config, tensors, **more)
        with pytest.raises(UserError, match=message):
            import_weights(tmp_path / "run", tmp_path / "x")
    large = metadata["tokenizer"]
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=290))
    write_weights(tmp_path / "x", small, random_weights(small.model, 0), tokenizer=large)
    with pytest.raises(
        UserError, match="token ids outside the vocabulary: .* set model.vocab_size=300"
    ):
        import_weights(tmp_path / "run", tmp_path / "x")
    assert not (tmp_path / "run").exists()


def test_values_that_are_not_finite_are_taken_and_told(folder, tmp_path):
    config, tensors, metadata = read_weights(folder / "run.safetensors")
    scale_D = tensors["layers.1.mlp_norm.weight"].astype(np.float64)
    # too large for float32
    tensors["layers.1.mlp_norm.weight"] = np.array([1.0, np.nan, 1e300, *scale_D[3:]])
    write_weights(tmp_path / "x", config, tensors, tokenizer=metadata["tokenizer"])
    assert "of 1 tensors not all finite, layers.1.mlp_norm.weight first" in import_weights(
        tmp_path / "run", tmp_path / "x"
    )
    params, *_ = restore_params(tmp_path / "run" / "checkpoints")
    scale_D = params["layers"]["mlp_norm"]["scale"][1]
    np.testing.assert_array_equal(scale_D[:3], np.float32([1.0, np.nan, np.inf]))
    assert "layers.1.mlp_norm.weight first" in export_weights(tmp_path / "run", tmp_path / "y")


def test_a_run_begins_with_the_weights_of_another(folder, tmp_path):
    """With other data, rates and steps; the weights and the tokenizer are those of the other."""
    config = changed(config_of(folder), {"optim.learning_rate": 1e-5, "steps": 9, "seed": 7})
    assert f"step 2 of {folder / 'run'}, step 0 here" in import_run(
        tmp_path / "tuned", folder / "run", config
    )
    tuned, other = (restore_params(x / "checkpoints") for x in (tmp_path / "tuned", folder / "run"))
    assert digests(tuned.params) == digests(other.params) and tuned.step == 0
    assert tuned.config["optim"]["learning_rate"] == 1e-5
    file = "tokenizer/tokenizer.json"
    assert (tmp_path / "tuned" / file).read_bytes() == (folder / "run" / file).read_bytes()
    assert loop.run(config, tmp_path / "tuned", until=1) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.mlp_width": 24},
            r"layers/mlp/inner/bias is \[\d, 24\] with this config, \[.*\] in .*run; set model",
        ),
        ({"model.vocab_size": 400}, r"embed/embedding is \[400, .* with this config, \[300, "),
        ({"model.memory.gate": "none"}, "layers/memory/gate/bz is absent with this config"),
        ({"data.tokenizer": "words"}, "data.tokenizer='words' is 'bpe' in .*run"),
    ],
)
def test_weights_of_another_model_are_refused(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        import_run(tmp_path / "tuned", folder / "run", changed(config_of(folder), changes))
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("source", ["run", "run.safetensors"])
def test_train_takes_a_workdir_or_a_file(folder, tmp_path, monkeypatch, capsys, source):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    own = [f"--config.{key}={value}" for key, value in CHANGES.items()]
    workdir = tmp_path / "tuned"
    command = ["train", f"--config={CONFIG}", f"--workdir={workdir}", "--until=1"]
    command += [*small_flags(folder / "text.txt"), *own, f"--init_from={folder / source}"]
    assert commands.main(command) == 0
    assert "step 0 here" in capsys.readouterr().err
    assert commands.main(command) == 0
    assert f"{workdir} has a run that goes on" in capsys.readouterr().err
