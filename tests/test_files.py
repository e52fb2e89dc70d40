"""Files are whole or as they were, and a line that is no JSON is named."""

import os

import pytest

from rmat_jax import files
from rmat_jax.errors import UserError
from rmat_jax.files import check_writable, json_lines, make_folder, replacing, write_whole


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    file = tmp_path / "report.md"
    write_whole(file, "old")
    with replacing(file) as scratch:
        scratch.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "report.md"
    write_whole(file, "old")
    with pytest.raises(ZeroDivisionError), replacing(file) as scratch:
        scratch.write_text("half")
        1 / 0  # noqa: B018 (it is there to fail)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_a_link_stays_one_and_a_pipe_is_left_alone(tmp_path):
    real, link = tmp_path / "real" / "weights", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(real)
    write_whole(link, "through")
    assert link.is_symlink() and real.read_text() == "through"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (lambda file: write_whole(file, ""), check_writable):
        with pytest.raises(UserError, match="it is a device or a pipe; give a file"):
            write(pipe)
    assert pipe.is_fifo()


def test_what_cannot_be_written_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="cannot be written: it is a folder; give a file"):
        write_whole(tmp_path, "")
    for write in (lambda file: write_whole(file, ""), check_writable):
        with pytest.raises(UserError, match="cannot be written: .*folder"):
            write(tmp_path / "nowhere" / "file")
    with pytest.raises(UserError, match="it is a folder"):
        check_writable(None, tmp_path)
    check_writable(tmp_path / "new", None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--workdir=.*file/in cannot be made .*; choose another"):
        make_folder(tmp_path / "file" / "in", "--workdir")


def test_json_lines_name_the_line_that_is_wrong():
    lines = [b'{"a": 1}\n', b"\n", b"[2]"]
    assert list(json_lines(lines, "facts", "")) == [
        ("facts, line 1", {"a": 1}),
        ("facts, line 3", [2]),
    ]
    with pytest.raises(UserError, match="facts, line 2 is not JSON: .*; give one object a line"):
        list(json_lines([b"1", b"{"], "facts", "give one object a line"))


def test_a_kill_between_a_file_and_its_digest_leaves_no_wrong_digest(tmp_path, monkeypatch):
    file = tmp_path / "kept"
    files.write_checked(file, "one")
    assert files.read_checked(file, "") == "one"

    def killed(path, text):
        if path != file:
            raise KeyboardInterrupt
        path.write_text(text, encoding="utf-8")

    monkeypatch.setattr(files, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_checked(file, "two")
    assert files.read_checked(file, "") == "two"
    # the control: with its digest, another content is damage
    monkeypatch.undo()
    files.write_checked(file, "two")
    file.write_text("one", encoding="utf-8")
    with pytest.raises(UserError, match="kept is damaged: it is not what kept.sha256 says"):
        files.read_checked(file, "")
