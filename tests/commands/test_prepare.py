"""`prepare`: what it makes is what training takes, and what it tells is so."""

import json
import re

import pytest

from rmat_jax import commands
from rmat_jax.commands.prepare import prepare
from rmat_jax.data import make_data
from rmat_jax.data.shared import VARIABLE
from rmat_jax.errors import UserError
from rmat_jax.flags import load_config
from tests.train.test_resume import CONFIG, small_flags

RECORD = {"prompt": "How are you?", "completion": "Fine, thank you."}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "common"))
    (tmp_path / "a.jsonl").write_text((json.dumps(RECORD) + "\n") * 300)
    more = ["data.format=messages", "data.tokenizer=bpe", "model.vocab_size=300"]
    given = [*small_flags(tmp_path / "a.jsonl"), *(f"--config.{key}" for key in more)]
    return [f"--config={CONFIG}", *given, "--config.eval_tokens=1024"]


def test_training_finds_what_was_prepared(config, tmp_path, monkeypatch, capsys):
    assert commands.main(["prepare", *config]) == 0
    told = capsys.readouterr().out
    sizes = re.findall(r"(\w+): (\d+) documents, ([\d,]+) tokens \(([\d,]+) of answers\)", told)
    assert [(name, count) for name, count, *_ in sizes] == [("train", "285"), ("heldout", "15")]
    assert "bytes a token" in told and "tokenizer: bpe of 2" in told and "ready in" in told
    # nothing lies about
    assert all(file.name.startswith((".", "t", "h")) for file in (tmp_path / "common").iterdir())
    loaded = load_config(CONFIG, config[1:])
    monkeypatch.setattr("rmat_jax.data.corpus._write", lambda *_: pytest.fail("made again"))
    data = make_data(loaded, tmp_path / "run")
    ratio = data.corpora["train"].num_bytes / data.corpora["train"].num_tokens
    assert f"{ratio:.2f} bytes a token" in told
    for _, count, tokens, answers in sizes:
        corpus = next(c for c in data.corpora.values() if c.num_documents == int(count))
        assert f"{corpus.num_tokens:,}" == tokens
        assert f"{(corpus.learned > 0).sum():,}" == answers
    with pytest.raises(pytest.fail.Exception):
        (tmp_path / "a.jsonl").write_text((json.dumps(RECORD) + "\n") * 400)
        make_data(loaded, tmp_path / "another")


def test_a_workdir_alone_will_do(config, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    loaded = load_config(CONFIG, config[1:])
    with pytest.raises(UserError, match="give --workdir, or set RMAT_JAX_CORPORA=DIR"):
        prepare(loaded)
    # nor is the shared folder used where there is one
    monkeypatch.setenv(VARIABLE, str(tmp_path / "common"))
    prepare(loaded, tmp_path / "run")
    assert not (tmp_path / "common").exists()
    assert (tmp_path / "run" / "corpus" / "train" / "tokens.npy").stat().st_nlink == 1
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").exists()


def test_what_is_made_up_needs_no_preparing(tmp_path):
    loaded = load_config("recall", [])
    with pytest.raises(UserError, match="data.synthetic=recall is made while it trains"):
        prepare(loaded, tmp_path)
