"""Runs that read the same text have its tokens once on disk, and never those of another text."""

import fcntl
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from rmat_jax.config import Config, DataConfig, RMATConfig
from rmat_jax.data import make_data, shared
from rmat_jax.data.shared import VARIABLE, shared_folder

TEXT = b"".join(b"line %d of a text\n" % i for i in range(400))


@pytest.fixture
def common(tmp_path, monkeypatch):
    """The folder that runs share."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "common"))
    return tmp_path / "common"


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT)
    return file


def config_of(text, tokenizer="bytes", **data):
    model = RMATConfig(chunk_len=16, vocab_size=300)
    data = DataConfig(path=str(text), tokenizer=tokenizer, **data)
    return Config(model=model, data=data, batch_size=2, eval_batch_size=2, eval_tokens=64)


def tokens(data):
    return {name: corpus.tokens.tolist() for name, corpus in data.corpora.items()}


def unread(*_, **__):
    pytest.fail("the text is not read again")


def entries(common):
    return sorted(file.name for file in common.iterdir() if not file.name.startswith("."))


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_the_second_run_has_the_files_of_the_first(common, text, tmp_path, monkeypatch, tokenizer):
    first = make_data(config_of(text, tokenizer), tmp_path / "a")
    # by its name and bytes, wherever it lies; a vocabulary is not trained again either
    (tmp_path / "elsewhere").mkdir()
    text = text.rename(tmp_path / "elsewhere" / "text.txt")
    os.utime(text, (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr("rmat_jax.data.formats.documents", unread)
        second = make_data(config_of(text, tokenizer), tmp_path / "b")
    assert tokens(first) == tokens(second) and first.identity == second.identity
    names = [file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.npy")]
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "a" / name).samefile(tmp_path / "b" / name)
    kinds = ["heldout", "train"] + ["tokenizer"] * (tokenizer == "bpe")
    assert sorted(name.partition("-")[0] for name in entries(common)) == sorted(kinds)
    # the run's own are its own: the folder may go
    for file in common.rglob("*.npy"):
        file.unlink()
    monkeypatch.setattr("rmat_jax.data.formats.documents", unread)
    assert tokens(make_data(config_of(text, tokenizer), tmp_path / "b")) == tokens(first)


@pytest.mark.parametrize(
    "change", ["a byte", "the format", "the part held out", "the tokenizer", "the vocabulary"]
)
def test_what_is_another_text_or_other_tokens_is_not_shared(common, text, tmp_path, change):
    first = make_data(config_of(text, "bpe"), tmp_path / "a")
    before, config = entries(common), config_of(text, "bpe")
    if change == "a byte":
        size, stat = len(TEXT), text.stat()
        text.write_bytes(TEXT.replace(b"line 7 ", b"line 8 "))
        os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert text.stat().st_size == size
    elif change == "the vocabulary":
        config = replace(config, model=replace(config.model, vocab_size=280))
    else:
        changes = {
            "the format": {"format": "text"},
            "the part held out": {"heldout_fraction": 0.3},
            "the tokenizer": {"tokenizer": "bytes"},
        }
        config = replace(config, data=replace(config.data, **changes[change]))
    second = make_data(config, tmp_path / "b")
    assert len(entries(common)) == len(before) + (2 if change == "the tokenizer" else 3)
    assert (tokens(first) == tokens(second)) == (change == "the format")


def test_from_another_disk_the_files_are_links(common, text, tmp_path, monkeypatch):
    def another_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    first = make_data(config_of(text), tmp_path / "a")
    file = tmp_path / "a" / "corpus" / "train" / "tokens.npy"
    assert file.is_symlink() and file.resolve().is_relative_to(common)
    # where these lead nowhere, the text is read again
    for name in entries(common):
        (common / name / "tokens.npy").unlink()
    assert tokens(make_data(config_of(text), tmp_path / "a")) == tokens(first)


@pytest.mark.parametrize("name", ["tokens.npy", "starts.npy", "manifest.json", "tokenizer.json"])
def test_what_is_damaged_there_is_made_again(common, text, tmp_path, name, capsys):
    first = make_data(config_of(text, "bpe"), tmp_path / "a")
    files, expected = list(common.rglob(name)), tokens(first)
    assert files
    for file in files:
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 2] ^= 1
        # in place, as a disk does
        file.write_bytes(whole)
    again = make_data(config_of(text, "bpe"), tmp_path / "b")
    assert tokens(again) == expected and again.identity == first.identity
    assert "is damaged" in capsys.readouterr().err
    # and so it is for the next
    assert tokens(make_data(config_of(text, "bpe"), tmp_path / "c")) == expected
    assert "is damaged" not in capsys.readouterr().err


MAKE = """
import sys
from pathlib import Path
from rmat_jax.config import *
from rmat_jax.data import make_data
model = RMATConfig(chunk_len=16, vocab_size=300)
data = DataConfig(path=sys.argv[1], tokenizer="bpe")
config = Config(model=model, data=data, batch_size=2, eval_batch_size=2, eval_tokens=64)
print(make_data(config, Path(sys.argv[2])).identity)
"""


def test_several_processes_make_one_corpus(common, text, tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(text), str(tmp_path / str(i))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    told = [process.communicate() for process in running]
    assert len({out for out, _ in told}) == 1 and told[0][0].startswith("text "), told
    assert len(entries(common)) == 3
    places = {(tmp_path / str(i) / "corpus/train/tokens.npy").stat().st_ino for i in range(3)}
    assert len(places) == 1


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held")
input()
"""


def test_who_comes_second_waits(common, text, tmp_path, capsys):
    make_data(config_of(text), tmp_path / "a")
    (lock,) = common.glob(".train-*.lock")
    other = subprocess.Popen(
        [sys.executable, "-u", "-c", HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    other.stdout.readline()
    with lock.open("ab") as file, pytest.raises(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    threading.Timer(0.5, lambda: other.communicate("\n")).start()
    make_data(config_of(text), tmp_path / "b")
    assert "another process is making the tokens of this text" in capsys.readouterr().err


def test_without_a_home_or_a_right_to_write_all_is_in_the_workdir(
    text, tmp_path, monkeypatch, capsys
):
    def alone(name):
        data = make_data(config_of(text, "bpe"), tmp_path / name)
        assert all(file.stat().st_nlink == 1 for file in (tmp_path / name).rglob("*.npy"))
        return tokens(data)

    # as the tests have it
    assert shared_folder() is None
    expected = alone("none")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert shared_folder() is None and alone("homeless") == expected
    assert not capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
    assert shared_folder() is None and alone("file below") == expected
    assert "runs share no tokens" in capsys.readouterr().err
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert shared_folder() == tmp_path / "cache" / "rmat_jax" / "corpora"


def test_processes_of_one_run_share_through_its_workdir(common, text, tmp_path):
    make_data(config_of(text), tmp_path / "a", share=False)
    assert not common.exists() and shared.shared_folder() == common
    np.testing.assert_array_equal(
        make_data(config_of(text), tmp_path / "a").corpora["train"].tokens,
        make_data(config_of(text), tmp_path / "b").corpora["train"].tokens,
    )
