"""`score` prints what texts cost, also of a text that was interrupted."""

import contextlib
import errno
import io
import os
from types import SimpleNamespace

import pytest

from rmat_jax import commands, infer
from rmat_jax.commands.score import score_files
from rmat_jax.errors import UserError
from rmat_jax.runs import load_engine


def test_a_full_disk_ends_score_by_name(workdir, tmp_path):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "text").write_bytes(b"A line of text.\n")
    with pytest.raises(UserError, match="output cannot be read or written: No space left"):
        score_files(workdir, [str(tmp_path / "text")], Full())


def test_an_interrupted_score_counts_what_was_scored(workdir, tmp_path, monkeypatch):
    """The total counts the bytes that the model read, not those read from the disk."""
    (tmp_path / "text").write_bytes(b"A line of text, and another.\n" * 40)

    def total(file, interrupt):
        def interrupted(*arguments):
            for count, scored in enumerate(score(*arguments)):
                yield scored
                if count == interrupt:
                    raise KeyboardInterrupt

        out, score = io.StringIO(), infer.score
        monkeypatch.setattr("rmat_jax.infer.scoring.score", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            score_files(workdir, [str(file)], out)
        monkeypatch.setattr("rmat_jax.infer.scoring.score", score)
        words = out.getvalue().splitlines()[-1].split()
        return float(words[0]), int(words[4].replace(",", ""))

    chunk = 8 * load_engine(workdir).model.config.chunk_len
    bits, size = total(tmp_path / "text", 1)
    # Two calls read as many bytes as tokens each.
    assert size == 2 * chunk
    whole, all_of_it = total(tmp_path / "text", None)
    assert all_of_it == 1160 and abs(bits - whole) < 0.5 and bits != whole


def test_score_reads_files_and_standard_input(workdir, tmp_path, capsys, monkeypatch):
    """Bytes that are not UTF-8 are text too. An empty file costs nothing. Documents are apart."""
    data = [b"A line of text, and another.\n" * 40, b"", bytes(range(256)) * 3]
    files = [tmp_path / f"{index}.txt" for index in range(3)]
    for file, content in zip(files, data, strict=True):
        file.write_bytes(content)

    def score(*names):
        assert commands.main(["score", f"--workdir={workdir}", *map(str, names)]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    first, empty, last, total = score(*files)
    assert empty[:3] == ["empty,", "not", "scored"]
    sizes = [int(line[4].replace(",", "")) for line in (first, last, total)]
    assert sizes == [len(data[0]), len(data[2]), len(data[0]) + len(data[2])]
    mean = (float(first[0]) * sizes[0] + float(last[0]) * sizes[1]) / sizes[2]
    # Four digits are printed.
    assert abs(float(total[0]) - mean) < 1e-4
    assert score(files[2])[0][0] == last[0]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data[0])))
    assert score("-")[0][0] == first[0]
    # the control
    assert float(first[0]) != float(last[0])


def test_input_that_the_shell_has_closed(workdir, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        commands.main(["score", "-", f"--workdir={workdir}"])
