"""A corpus on disk is what its documents say, is made once, and is never taken for another."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rmat_jax import progress
from rmat_jax.data.corpus import build_corpus
from rmat_jax.data.tokenizer import ByteTokenizer
from rmat_jax.errors import UserError

DOCUMENTS = [b"first", b"", b"second\n" * 10, b"\xff\x00"]


def build(folder, documents=DOCUMENTS, source="source", tokenizer=None):
    return build_corpus(
        lambda: iter(documents), tokenizer or ByteTokenizer(), folder, "train", source
    )


def unread():
    raise AssertionError("a kept corpus is not built again")
    yield


def test_layout(tmp_path, corpus_of):
    built = build(tmp_path)
    expected = corpus_of([document for document in DOCUMENTS if document])
    np.testing.assert_array_equal(built.tokens, expected.tokens)
    np.testing.assert_array_equal(built.starts, expected.starts)
    assert built.tokens.dtype == np.uint16
    assert built.describe == "3 documents, 80 tokens, 77 bytes"


def test_long_documents_are_encoded_in_blocks_without_a_seam(tmp_path):
    document = np.random.default_rng(0).integers(256, size=3_000_000, dtype=np.uint8).tobytes()
    assert ByteTokenizer().decode(build(tmp_path, [document]).tokens) == document


def test_large_vocabularies_take_wider_tokens(tmp_path):
    class Wide(ByteTokenizer):
        vocab_size, end = 70_001, 70_000

    assert build(tmp_path, tokenizer=Wide()).tokens.tolist()[:2] == [70_000, ord("f")]


def test_kept_corpus_is_reused_until_source_or_tokenizer_change(tmp_path, capsys):
    class Other(ByteTokenizer):
        describe = "other"

    first = build(tmp_path)
    again = build_corpus(unread, ByteTokenizer(), tmp_path, "train", "source")
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not capsys.readouterr().err
    for change in ({"source": "another"}, {"source": "another", "tokenizer": Other()}):
        assert build(tmp_path, [b"new"], **change).describe == "1 documents, 4 tokens, 3 bytes"
        assert "reading the text again" in capsys.readouterr().err
        # kept
        assert build(tmp_path, [b"newer"], **change).num_bytes == 3
    assert [file.name for file in tmp_path.iterdir()] == ["train"]
    # a map outlives its file
    assert first.tokens[1] == ord("f")


def test_killed_build_leaves_no_corpus(tmp_path):
    def killed():
        yield b"text"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus(killed, ByteTokenizer(), tmp_path, "train", "source")
    assert list(tmp_path.iterdir()) == []
    assert build(tmp_path).num_documents == 3


@pytest.mark.parametrize("name", ["tokens.npy", "starts.npy", "manifest.json"])
@pytest.mark.parametrize("size", [0, 140])
def test_damaged_corpus_is_built_again(tmp_path, name, size):
    build(tmp_path)
    (tmp_path / "train" / name).write_bytes((tmp_path / "train" / name).read_bytes()[:size])
    assert build(tmp_path).describe == "3 documents, 80 tokens, 77 bytes"
    build_corpus(unread, ByteTokenizer(), tmp_path, "train", "source")


@pytest.mark.parametrize("name", ["tokens.npy", "starts.npy", "manifest.json"])
def test_a_flipped_bit_in_a_corpus_is_noticed(tmp_path, name):
    tokens = build(tmp_path).tokens.tolist()
    file = tmp_path / "train" / name
    whole = file.read_bytes()
    for place in range(1, len(whole), 9):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        file.write_bytes(damaged)
        assert build(tmp_path).tokens.tolist() == tokens
        assert file.read_bytes() == whole
    # the control: it was not built at each call
    build_corpus(unread, ByteTokenizer(), tmp_path, "train", "source")


def test_many_may_build_the_same_corpus_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: build(tmp_path), range(16)))
    assert all(corpus.tokens.tolist() == built[0].tokens.tolist() for corpus in built)
    assert [file.name for file in tmp_path.iterdir()] == ["train"]


def test_corpus_that_another_process_finished_meanwhile_stays(tmp_path):
    inodes = []

    def documents():
        build(tmp_path)
        inodes.append((tmp_path / "train" / "tokens.npy").stat().st_ino)
        yield from DOCUMENTS

    mine = build_corpus(documents, ByteTokenizer(), tmp_path, "train", "source")
    assert inodes == [(tmp_path / "train" / "tokens.npy").stat().st_ino]
    np.testing.assert_array_equal(mine.tokens, build(tmp_path).tokens)


def test_long_builds_show_progress_and_short_ones_do_not(tmp_path, capsys, monkeypatch):
    build(tmp_path / "quick")
    assert not capsys.readouterr().err
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0)
    build(tmp_path / "slow")
    assert "3 documents, 0.0M tokens" in capsys.readouterr().err


def test_empty_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the text train \(source\) is empty"):
        build(tmp_path, [b"", b""])
    assert list(tmp_path.iterdir()) == []


THREADS = """
import hashlib, os, sys
from pathlib import Path
from rmat_jax.data import corpus, encode
from rmat_jax.data.tokenizer import BPETokenizer
texts = [b"some words and 123 numbers, %d of them\\n" % i * (i % 40) for i in range(800)]
tokenizer = BPETokenizer.train(iter(texts), 400)
before = len(os.listdir("/proc/self/task"))
encode.GROUP = int(sys.argv[2])
made = corpus.build_corpus(lambda: iter(texts), tokenizer, Path(sys.argv[1]), "train", "source")
print(hashlib.sha256(made.tokens.tobytes() + made.starts.tobytes()).hexdigest())
print(len(os.listdir("/proc/self/task")))
"""


def test_many_threads_make_the_bytes_of_one(tmp_path):
    found = []
    for name, group, more in (
        ("one", 1, {"TOKENIZERS_PARALLELISM": "false"}),
        ("four", 1 << 18, {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "4"}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", THREADS, str(tmp_path / name), str(group)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | more,
        )
        found.append(done.stdout.split())
    assert found[0][0] == found[1][0]
    # the control: there were more threads
    assert int(found[1][1]) > int(found[0][1])
