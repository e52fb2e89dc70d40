"""A file of weights: what comes back is what was written, bit for bit; PyTorch agrees; a bad file
is named in one line.
"""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from rmat_jax import commands, flags
from rmat_jax.config import VERSION, Config, to_saved
from rmat_jax.errors import UserError
from rmat_jax.interop.layout import from_jax, layout, random_weights, to_jax
from rmat_jax.interop.weights import read_weights, write_weights
from tests import models
from tests.train.test_resume import ROOT

CONFIG = Config(model=models.tiny(dtype="float32"), steps=300)


def same_bits(one, other):
    return list(one) == list(other) and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


def float32_weights(seed=0):
    return {name: x.astype(np.float32) for name, x in random_weights(CONFIG.model, seed).items()}


WEIGHTS = float32_weights()


@pytest.mark.parametrize("options", models.COVERING, ids=models.name)
def test_a_tree_of_parameters_comes_back_through_a_file(options, tmp_path, float64):
    config = Config(model=models.tiny(**options))
    params = models.make_params(config.model)
    tensors = from_jax(config.model, params)
    assert {name: x.shape for name, x in tensors.items()} == {
        n: s.shape for n, s in layout(config.model).items()
    }
    for dtype in ("float64", "float32"):
        wanted = {name: x.astype(dtype) for name, x in tensors.items()}
        write_weights(tmp_path / "x", config, wanted, step="7")
        found_config, found, metadata = read_weights(tmp_path / "x")
        assert found_config == config and metadata["step"] == "7"
        assert same_bits(found, wanted)
        tree = to_jax(config.model, found)
        # nothing of the Linen tree is left out
        assert jax.tree.structure(tree) == jax.tree.structure(params)
        assert all(
            jax.tree.leaves(
                jax.tree.map(lambda x, y: np.array_equal(x, y.astype(x.dtype)), tree, params)
            )
        )
    kernel_LDD = params["layers"]["query"]["kernel"]
    assert np.array_equal(tensors["layers.1.query.weight"], kernel_LDD[1].T)
    # the control: the layout matters
    assert not np.array_equal(tensors["layers.1.query.weight"], kernel_LDD[1])


def test_bfloat16_is_rounded_as_pytorch_rounds(tmp_path):
    """For every upper half, lower halves around a tie: ties to even and odd, subnormals, the
    largest, infinities, NaNs.
    """
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001], np.uint32)
    values = (np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | lower).view(np.float32)
    model = dataclasses.replace(CONFIG.model, vocab_size=values.size // CONFIG.model.width)
    tensors = {n: x.astype(np.float32) for n, x in random_weights(model, 0).items()}
    tensors["embed.weight"] = values.reshape(-1, model.width)
    write_weights(tmp_path / "x", Config(model=model), tensors, "bfloat16")
    loaded = safetensors.torch.load_file(tmp_path / "x")
    found = read_weights(tmp_path / "x")[1]
    assert loaded.keys() == tensors.keys()
    for name, x in tensors.items():
        expected = torch.from_numpy(x).to(torch.bfloat16)
        assert loaded[name].dtype == torch.bfloat16 and found[name].dtype == np.float32
        number = ~torch.isnan(expected)
        assert torch.equal(torch.isnan(loaded[name]), ~number)
        # -0 is not 0
        bits, expected_bits = loaded[name].view(torch.int16), expected.view(torch.int16)
        assert torch.equal(bits[number], expected_bits[number])
        assert np.array_equal(found[name], expected.float().numpy(), equal_nan=True)
    cut = (values.view(np.uint32) >> 16 << 16).view(np.float32)
    # rounded, not cut
    assert not np.array_equal(found["embed.weight"], cut.reshape(-1, model.width), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_pytorch_loads_what_is_written_and_it_is_written_again_the_same(dtype, tmp_path):
    file, again = tmp_path / "x", tmp_path / "again"
    write_weights(file, CONFIG, WEIGHTS, dtype, step="3", tokenizer="ä")
    loaded = safetensors.torch.load_file(file)
    for name, x in WEIGHTS.items():
        assert torch.equal(loaded[name], torch.from_numpy(x).to(getattr(torch, dtype)))
    config, tensors, metadata = read_weights(file)
    rest = {key: value for key, value in metadata.items() if key not in ("format", "config")}
    write_weights(again, config, tensors, dtype, **rest)
    assert again.read_bytes() == file.read_bytes() and rest == {"step": "3", "tokenizer": "ä"}
    write_weights(again, config, float32_weights(seed=1), dtype, **rest)
    # the control
    assert again.read_bytes() != file.read_bytes()


def test_arrays_of_several_types_keep_theirs(tmp_path):
    dtypes = [np.float16, np.float64, np.float32]
    mixed = {name: x.astype(dtypes[i % 3]) for i, (name, x) in enumerate(WEIGHTS.items())}
    write_weights(tmp_path / "x", CONFIG, mixed)
    loaded = safetensors.torch.load_file(tmp_path / "x")
    assert all(torch.equal(loaded[name], torch.from_numpy(x)) for name, x in mixed.items())
    found = read_weights(tmp_path / "x")[1]
    assert same_bits(
        found, {n: x.astype(np.float32) if x.dtype == np.float16 else x for n, x in mixed.items()}
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_what_pytorch_saves_is_read(dtype, tmp_path):
    tensors = {name: torch.from_numpy(x).to(getattr(torch, dtype)) for name, x in WEIGHTS.items()}
    wide = torch.float64 if dtype == "float64" else torch.float32
    expected = {name: x.to(wide).numpy() for name, x in tensors.items()}
    own = {"format": "rmat_jax 1", "config": json.dumps(to_saved(CONFIG))}
    for metadata, given in [(own, None), (None, CONFIG), ({"format": "pt"}, CONFIG)]:
        safetensors.torch.save_file(tensors, tmp_path / "x", metadata)
        config, found, _ = read_weights(tmp_path / "x", given)
        assert config == CONFIG and same_bits(found, expected)


def test_a_given_config_may_train_otherwise_but_not_compute_otherwise(tmp_path):
    def change(**model):
        return dataclasses.replace(
            CONFIG, steps=500, model=dataclasses.replace(CONFIG.model, **model)
        )

    write_weights(tmp_path / "x", CONFIG, WEIGHTS)
    for given in (change(), change(dropout=0.5, remat="chunk", dtype="bfloat16")):
        assert read_weights(tmp_path / "x", given)[0] == given
    with pytest.raises(
        UserError,
        match=r"another model: model.rope is 'per_head' there, 'none' in --config; change",
    ):
        read_weights(tmp_path / "x", change(rope="none"))
    bpe = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, tokenizer="bpe"))
    with pytest.raises(UserError, match="data.tokenizer is 'bytes' there, 'bpe' in"):
        read_weights(tmp_path / "x", bpe)


WITHOUT_JAX = """
import sys
for name in ("jax", "jaxlib", "flax"):
    sys.modules[name] = None  # importing it raises
import json
from safetensors import safe_open
from rmat_jax.config import Config, from_saved
from rmat_jax.interop.reference import RMAT
with safe_open(sys.argv[1], framework="pt") as file:
    config = from_saved(Config, json.loads(file.metadata()["config"]), sys.argv[1])
    weights = {name: file.get_tensor(name).float() for name in file.keys()}
model = RMAT(config.model)
model.load_state_dict(weights)
print(float(model.embed.weight.sum()))
"""


def test_the_twin_reads_a_file_where_jax_is_not_installed(tmp_path):
    write_weights(tmp_path / "x", CONFIG, WEIGHTS, "bfloat16")
    command = [sys.executable, "-c", WITHOUT_JAX, tmp_path / "x"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    total = read_weights(tmp_path / "x")[1]["embed.weight"].sum()
    assert float(run.stdout) == pytest.approx(total, rel=1e-5)


def edited(change=lambda tensors: None, **metadata):
    """Writes weights that `change` changed, with these metadata beside or instead of ours; None
    leaves one out.
    """

    def write(file):
        tensors = {name: torch.from_numpy(x) for name, x in WEIGHTS.items()}
        change(tensors)
        own = {"format": "rmat_jax 1", "config": json.dumps(to_saved(CONFIG))} | metadata
        safetensors.torch.save_file(
            tensors, file, {key: value for key, value in own.items() if value is not None}
        )

    return write


def truncated(length):
    def write(file):
        edited()(file)
        file.write_bytes(file.read_bytes()[:length])

    return write


def configured(**changes):
    return edited(config=json.dumps(to_saved(CONFIG) | changes))


def without_many(tensors):
    for name in list(tensors)[:6]:
        del tensors[name]


QUERY, FUSION, BIAS = "layers.0.query.weight", "layers.1.fusion", "layers.1.mlp.inner.bias"
BAD = {
    "no file": (lambda file: None, ["does not exist; export"]),
    "a folder": (lambda file: file.mkdir(), ["is no file but a folder; export"]),
    "an empty file": (lambda file: file.touch(), ["is no safetensors file, or damaged"]),
    "a text": (
        lambda file: file.write_text("weights, they said\n" * 99),
        ["is no safetensors file, or damaged"],
    ),
    **{
        f"cut to {n}": (truncated(n), ["is no safetensors file, or damaged"])
        for n in (7, 8, 100, 4000, 9000, -1)
    },
    "no metadata": (
        edited(format=None, config=None),
        ["no config", "--config=FILE", "'format': 'rmat_jax 1'"],
    ),
    "other metadata": (edited(format="pt"), ["no config in its metadata"]),
    "a newer format": (
        edited(format="rmat_jax 2"),
        ["has format 'rmat_jax 2'", "reads rmat_jax 1; update"],
    ),
    "no config": (edited(config=None), ["cannot be read (KeyError: 'config')", "config.json"]),
    "a config that is no JSON": (
        edited(config="{'model'"),
        ["cannot be read (JSONDecodeError", "config.json"],
    ),
    "a config that is no group": (
        edited(config="[1]"),
        ["cannot be read (AttributeError", "config.json"],
    ),
    "a number that is a text": (
        configured(steps="many"),
        ["not valid", "steps='many' must be a whole number"],
    ),
    "half a layer": (
        configured(model={"num_layers": 1.5}),
        ["not valid", "model.num_layers=1.5 must be a whole number"],
    ),
    "an unknown key": (
        configured(stpes=3),
        ["not valid", "no config has the key stpes", "did you mean steps?"],
    ),
    "another version": (
        configured(version=VERSION + 1),
        ["not valid", f"was saved by version {VERSION + 1}"],
    ),
    "a broken rule": (configured(steps=0), ["not valid", "steps=0 must be positive"]),
    "a missing tensor": (
        edited(lambda t: t.pop(FUSION)),
        [f"{FUSION} [3] is missing; rmat_jax/interop/layout.py"],
    ),
    "an extra tensor": (
        edited(lambda t: t.update(more=torch.zeros(2, 3))),
        ["more [2, 3] is no tensor of it"],
    ),
    "a wrong shape": (
        edited(lambda t: t.update({BIAS: torch.zeros(8)})),
        [f"{BIAS} is [8], must be [12]"],
    ),
    "a scalar": (
        edited(lambda t: t.update({BIAS: torch.tensor(1.0)})),
        [f"{BIAS} is [], must be [12]"],
    ),
    "integers": (
        edited(lambda t: t.update({QUERY: t[QUERY].long()})),
        [f"{QUERY} is int64, must be one of float64"],
    ),
    "several": (
        edited(without_many),
        ["embed.weight [11, 8] is missing; ", "; and 2 more; rmat_jax/interop"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    write, parts = BAD[case]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    file, workdir = tmp_path / "x.safetensors", tmp_path / "run"
    write(file)
    assert (
        flags.run(lambda: commands.main(["import", f"--file={file}", f"--workdir={workdir}"])) == 2
    )
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and len(captured.err) < 500, (
        captured.err
    )
    for part in ("error: ", str(file), *parts):
        assert part in captured.err
    assert not workdir.exists()


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    """Between the header's braces and the last tensor; only its padding says nothing."""
    file = tmp_path / "x"
    write_weights(file, CONFIG, WEIGHTS, step="3")
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    end = 8 + len(whole[8 : 8 + header].rstrip())
    places = [*range(end), *range(8 + header, len(whole))]
    for place in np.random.default_rng(0).choice(places, 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            read_weights(file)
        assert "\n" not in str(caught.value)
    # the control: a file without a seal does not notice
    del damaged
    edited()(file)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert not same_bits(read_weights(file)[1], WEIGHTS)


LIMITED = """
import resource, sys
from rmat_jax.errors import UserError
from rmat_jax.interop.weights import read_weights
import jax.numpy as jnp
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for file in sys.argv[1:]:
    before = used()
    try:
        read_weights(file)
    except UserError as error:
        print(used() - before, error)
"""


def huge(layers, size=0):
    """A header that says so; no tensor behind it but a hole of so many bytes."""

    def write(file):
        config = to_saved(CONFIG)
        config["model"] = config["model"] | {"num_layers": layers}
        header = {
            "__metadata__": {"format": "rmat_jax 1", "config": json.dumps(config)},
            "embed.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]},
        }
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text)
        with file.open("r+b") as opened:
            opened.truncate(8 + len(text) + size)

    return write


def nested(file):
    text = b'{"__metadata__":' + b"[" * 50_000_000
    file.write_bytes(len(text).to_bytes(8, "little") + text)


ENDLESS = {
    "a billion layers": (huge(10**9), "model.num_layers=1000000000 must be at most 10,000"),
    "many layers": (huge(9_999), "does not fit the model of its config: embed.weight is [0], must"),
    "a hole": (huge(1, 1 << 30), "the model of its config: embed.weight is [268435456], must"),
    "deep": (nested, "is no safetensors file, or damaged"),
    "zeros": (lambda file: file.symlink_to("/dev/zero"), "is no file but a device or a pipe"),
    "pipe": (os.mkfifo, "is no file but a device or a pipe"),
}


def test_what_is_too_large_or_endless_is_refused_before_it_is_read(tmp_path):
    for name, (write, _) in ENDLESS.items():
        write(tmp_path / name)
    command = [sys.executable, "-c", LIMITED, *(tmp_path / name for name in ENDLESS)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for line, (_, message) in zip(run.stdout.splitlines(), ENDLESS.values(), strict=True):
        megabytes, told = line.split(" ", 1)
        assert message in told and int(megabytes) < 300


def test_control_the_file_without_a_change_is_read(tmp_path):
    edited()(tmp_path / "x")
    assert same_bits(read_weights(tmp_path / "x")[1], WEIGHTS)


def test_a_write_that_fails_leaves_the_older_file(tmp_path):
    file = tmp_path / "x"
    write_weights(file, CONFIG, WEIGHTS)
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    other = float32_weights(seed=1)
    try:
        # no file may grow beyond 4 KiB
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
        with pytest.raises(
            UserError, match="x cannot be written: File too large; choose a file in a folder"
        ):
            write_weights(file, CONFIG, other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for wrong in (other | {FUSION: np.zeros(4)}, {n: x for n, x in other.items() if n != FUSION}):
        with pytest.raises(UserError, match=re.escape(FUSION)):
            write_weights(file, CONFIG, wrong)
    with pytest.raises(UserError, match="dtype='int8' is not one of 'float64'"):
        write_weights(file, CONFIG, other, "int8")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
    write_weights(file, CONFIG, other)
    # the control
    assert file.read_bytes() != before
    for place in (tmp_path / "nowhere" / "x", tmp_path, file / "x"):
        with pytest.raises(UserError, match="cannot be written"):
            write_weights(place, CONFIG, other)
    assert list(tmp_path.iterdir()) == [file] and not list(tmp_path.parent.glob(".*.part"))
