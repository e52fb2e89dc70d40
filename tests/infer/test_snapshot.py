"""A session in a file goes on bit for bit, in another process too; what does not fit is refused by
name.
"""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rmat_jax.errors import UserError
from rmat_jax.sealed import read_sealed, write_sealed
from tests.infer.letters import CONFIG, bits, make_engine, quiet_params
from tests.models import DEFAULT, tiny
from tests.train.test_resume import ROOT

PROMPT = b"abcdefghijabcabcabcdefghijabcdefghij"
WRITE = {"max_new_tokens": 50, "temperature": 1.5, "seed": 3}

ELSEWHERE = """
import sys, json
from tests import conftest
from tests.infer.letters import CONFIG, make_engine
import dataclasses
session = make_engine(dataclasses.replace(CONFIG, dtype=sys.argv[2])).load(sys.argv[1])
pieces = list(session.write_pieces(max_new_tokens=50, temperature=1.5, seed=3))
tokens = [t for p in pieces for t in p.tokens.tolist()]
print(json.dumps([tokens, [float(x).hex() for p in pieces for x in p.logprobs]]))
"""


def spoken(session):
    pieces = list(session.write_pieces(**WRITE))
    return [t for p in pieces for t in p.tokens.tolist()], [
        float(x).hex() for p in pieces for x in p.logprobs
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_process_goes_on_bit_for_bit(dtype, tmp_path):
    engine = make_engine(dataclasses.replace(CONFIG, dtype=dtype))
    session = engine.open(PROMPT)
    "".join(session.write(max_new_tokens=21))
    session.save(tmp_path / "session")
    here = spoken(session.fork())
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "session"), dtype]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(there) == [here[0], here[1]]
    loaded = engine.load(tmp_path / "session")
    assert bits(loaded) == bits(session) and loaded.tokens == session.tokens
    assert spoken(loaded) == here
    # the control: what the session wrote matters
    assert spoken(engine.open(PROMPT)) != here


def test_saving_leaves_the_session_as_it_is(tmp_path):
    """Also one that is writing, and one that has not read its prompt yet; the file holds what was
    read.
    """
    engine = make_engine()
    session = engine.open(PROMPT)
    session.save(tmp_path / "early")
    assert engine.load(tmp_path / "early").tokens == 1 + len(PROMPT)
    expected = spoken(session.fork())
    pieces, tokens = session.write_pieces(**WRITE), []
    for piece in pieces:
        tokens += piece.tokens.tolist()
        session.save(tmp_path / "midway")
        assert (
            engine.load(tmp_path / "midway").tokens
            == session.tokens
            == 1 + len(PROMPT) + len(tokens)
        )
    assert tokens == expected[0]
    first = (tmp_path / "midway").read_bytes()
    session.save(tmp_path / "midway")
    assert (tmp_path / "midway").stat().st_size == len(first)


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "ann.safetensors"
    make_engine().open(PROMPT).save(file)
    return file


def refused(file, engine, *parts):
    with pytest.raises(UserError) as error:
        engine.load(file)
    assert "\n" not in str(error.value)
    for part in (file.name, *parts):
        assert part in str(error.value)


def test_other_models_are_refused_by_name(saved):
    refused(
        saved,
        make_engine(tiny(dtype="float32", **DEFAULT | {"memory.slots": 24})),
        "another model",
        "memory.slots was 16, is 24",
    )
    refused(
        saved,
        make_engine(dataclasses.replace(CONFIG, dtype="bfloat16")),
        "dtype was 'float32', is 'bfloat16'",
    )
    refused(saved, make_engine(params=quiet_params(CONFIG, 1)), "other weights")
    engine = make_engine()
    engine.tokenizer.describe = "words"
    refused(saved, engine, "another tokenizer", "letters", "words")
    trained_otherwise = dataclasses.replace(CONFIG, remat="block", dropout=0.1)
    # the control: the same model
    assert make_engine(trained_otherwise).load(saved).tokens == 1 + len(PROMPT)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_damaged_file_is_refused(saved, place):
    engine = make_engine()
    engine.load(saved)
    whole = bytearray(saved.read_bytes())
    saved.write_bytes(whole[: int(place * len(whole))])
    refused(saved, engine)
    whole[int(place * len(whole))] ^= 4
    saved.write_bytes(whole)
    refused(saved, engine)


def test_files_of_other_kinds_are_refused(saved, tmp_path):
    engine = make_engine()
    refused(tmp_path / "nobody", engine, "does not exist")
    other = tmp_path / "text"
    other.write_text("Ann: Hello.")
    refused(other, engine, "is no safetensors file")
    save_file({"x": np.zeros(3)}, other)
    refused(other, engine, "has the format None")
    with safe_open(saved, "np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        metadata = opened.metadata()
    save_file(tensors, other, metadata | {"tokens": "9"})
    refused(other, engine, "damaged")
    save_file(tensors | {"more": np.zeros(1)}, other, metadata)
    refused(other, engine, "more do not fit")
    save_file(tensors, other, metadata)
    # the control
    assert bits(engine.load(other)) == bits(engine.load(saved))


NOT_OURS = [
    {"config": None},
    {"config": "{"},
    {"config": "[1]"},
    {"config": "[" * 100_000},
    {"config": '{"model": 3}'},
    {"tokens": None},
    {"tokens": "many"},
    {"tokens": "-3"},
    {"tokens": "9" * 5000},
    {"tokenizer": None},
    {"weights": None},
    {"format": "rmat_jax session 1"},
]


@pytest.mark.parametrize("change", NOT_OURS, ids=lambda x: str(x)[:30])
def test_metadata_of_somebody_else_are_refused(change, saved, tmp_path):
    """The seal is right: whoever can write the file can seal it."""
    engine = make_engine()
    tensors, metadata = read_sealed(saved, "", lambda *_: None)
    metadata = {key: x for key, x in (metadata | change).items() if x is not None}
    write_sealed(saved, metadata.pop("format"), tensors, metadata)
    refused(saved, engine)


def test_tensors_of_somebody_else_are_refused(saved):
    engine = make_engine()
    tensors, metadata = read_sealed(saved, "", lambda *_: None)
    kind = metadata.pop("format")
    for name, x in tensors.items():
        for other in (x.astype(np.float64), x[None], x[:0], None):
            changed = {n: y for n, y in (tensors | {name: other}).items() if y is not None}
            write_sealed(saved, kind, changed, metadata)
            refused(saved, engine, "do not fit")
    write_sealed(saved, kind, tensors, metadata)
    # the control
    assert engine.load(saved).tokens == 1 + len(PROMPT)


def test_a_folder_that_does_not_exist(tmp_path):
    session = make_engine().open(PROMPT)
    with pytest.raises(UserError, match="cannot be written"):
        session.save(tmp_path / "no" / "session")


def test_weights_are_told_apart():
    """By any bit of any of them."""
    engine = make_engine()
    leaves, structure = jax.tree.flatten(quiet_params(CONFIG))
    for index in range(len(leaves)):
        changed = [np.copy(leaf) for leaf in leaves]
        changed[index].reshape(-1)[-1] = np.nextafter(changed[index].reshape(-1)[-1], np.float32(9))
        other = make_engine(params=jax.tree.unflatten(structure, changed))
        assert other.fingerprint != engine.fingerprint
    assert make_engine().fingerprint == engine.fingerprint
