"""`generate` prints bytes as they were written, and loses nothing when somebody interrupts."""

import codecs
import errno
import io
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from rmat_jax import commands, infer
from rmat_jax.commands import generate as command
from rmat_jax.errors import UserError
from rmat_jax.runs import load_engine
from tests.train.test_resume import ROOT

PROMPT = "A line"


class Out(io.BytesIO):
    """Keeps what was written, call by call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def write(self, data):
        self.calls.append(bytes(data))
        return super().write(data)


def generate(workdir, prompt=PROMPT, session=None, **sampling):
    out = Out()
    options = {"max_new_tokens": 60, "temperature": 5.0} | sampling
    assert command.generate(workdir, prompt, session, out, **options) == 0
    return out


def test_the_bytes_are_those_of_the_engine_and_characters_stay_whole(workdir):
    """A model that has learned nothing writes any bytes, mostly not UTF-8."""
    session = load_engine(workdir, rows=1).open(PROMPT)
    pieces = [
        piece.text for piece in session.write_pieces(max_new_tokens=600, temperature=5.0, seed=1)
    ]
    out = generate(workdir, max_new_tokens=600, seed=1)
    assert out.getvalue() == b"".join(pieces) and len(out.calls) > 2
    assert whole(out.calls)
    # the control
    assert not whole([bytes([byte]) for byte in out.getvalue()])
    assert out.getvalue() != generate(workdir, max_new_tokens=600, seed=2).getvalue()


def whole(calls):
    """Tells whether no call but the last ends inside a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    return all(
        decoder.decode(call) is not None and not decoder.getstate()[0] for call in calls[:-1]
    )


def test_a_session_goes_on_where_it_stopped(workdir, tmp_path, capsys):
    """Two calls with a session are one call without; a third only reads."""
    file = tmp_path / "session"
    once = generate(workdir, seed=1, temperature=0, max_new_tokens=30).getvalue()
    first = generate(workdir, session=file, temperature=0, max_new_tokens=12).getvalue()
    assert (
        first + generate(workdir, None, file, temperature=0, max_new_tokens=18).getvalue() == once
    )
    assert f"{file} has read {1 + len(PROMPT) + 30} tokens" in capsys.readouterr().err
    assert generate(workdir, "more text", file, max_new_tokens=0).getvalue() == b""
    goes_on = generate(workdir, "", file, temperature=0).getvalue()
    history = PROMPT.encode() + once + b"more text"
    assert goes_on == generate(workdir, io.BytesIO(history), temperature=0).getvalue()
    assert load_engine(workdir).load(file).tokens == 1 + len(history) + len(goes_on)


def test_prompts_of_any_length_and_any_bytes(workdir, tmp_path, monkeypatch, capfdbinary):
    """The command reads standard input in blocks, any bytes, and the escapes of a shell."""
    # This is more than two blocks.
    text = bytes(range(256)) * 700
    file = tmp_path / "session"

    def command(prompt, *more):
        arguments = [
            "generate",
            f"--workdir={workdir}",
            f"--prompt={prompt}",
            "--max_new_tokens=9",
            "--temperature=0",
            *more,
        ]
        assert commands.main(arguments) == 0
        return capfdbinary.readouterr()

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    out, err = command("-", f"--session={file}")
    assert len(out) == 9 and b"wrote 9 tokens" in err and b"a second" in err and b"bytes" in err
    assert load_engine(workdir).load(file).tokens == 1 + len(text) + 9
    odd = b"\xff\xe9t\xe9"
    out, _ = command(odd.decode("utf-8", "surrogateescape"))
    assert out == generate(workdir, io.BytesIO(odd), temperature=0, max_new_tokens=9).getvalue()
    assert out != generate(workdir, io.BytesIO(b"\xfe"), temperature=0, max_new_tokens=9).getvalue()


def interrupt(session):
    raise KeyboardInterrupt


def test_interrupted_while_it_reads_the_file_stays_as_it_was(workdir, tmp_path, monkeypatch):
    file = tmp_path / "session"
    generate(workdir, session=file)
    before = file.read_bytes()
    monkeypatch.setattr(infer.Session, "catch_up", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(workdir, "more", file)
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["session"]


def start(workdir, file):
    arguments = [
        f"--workdir={workdir}",
        f"--prompt={PROMPT}",
        f"--session={file}",
        "--temperature=0",
    ]
    command = [
        sys.executable,
        "-m",
        "rmat_jax",
        "generate",
        *arguments,
        "--max_new_tokens=100000000",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    return process, process.stdout.read(20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_writes_all_that_was_printed_is_kept(workdir, tmp_path, number):
    file = tmp_path / "session"
    process, first = start(workdir, file)
    process.send_signal(number)
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number and b"interrupted" in err and b"Traceback" not in err
    session = load_engine(workdir).load(file)
    assert session.tokens == 1 + len(PROMPT) + len(first + rest)
    expected = generate(workdir, PROMPT, max_new_tokens=len(first + rest), temperature=0).getvalue()
    assert first + rest == expected


@pytest.mark.parametrize("seconds", [1.0, 2.0, 4.0])
def test_interrupted_before_there_is_something_to_lose(workdir, seconds):
    """While it imports, restores or compiles there is no traceback, whatever is interrupted."""
    command = [sys.executable, "-m", "rmat_jax", "generate", f"--workdir={workdir}", "--prompt=-"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_full_disk_loses_the_text_but_not_the_session(workdir, tmp_path):
    class Full(Out):
        def flush(self):
            if len(self.calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = Full()
    with pytest.raises(UserError, match="No space left"):
        command.generate(
            workdir, PROMPT, tmp_path / "session", out, max_new_tokens=1000, temperature=0
        )
    assert load_engine(workdir).load(tmp_path / "session").tokens >= 1 + len(PROMPT) + len(
        b"".join(out.calls[:2])
    )


def test_where_a_session_cannot_be_saved_is_found_before_any_work(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("rmat_jax.runs.load_engine", lambda *_, **__: pytest.fail("work has begun"))
    for file, message in (
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "a", "no folder"),
    ):
        with pytest.raises(UserError, match=message):
            generate(workdir, session=file)


def test_a_closed_pipe_is_no_error(workdir, tmp_path):
    process, first = start(workdir, tmp_path / "session")
    process.stdout.close()
    assert process.wait(timeout=120) == 0 and process.stderr.read() == b""
    process.stderr.close()
    assert load_engine(workdir).load(tmp_path / "session").tokens >= 1 + len(PROMPT) + len(first)


def test_output_that_the_shell_has_closed(workdir, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        commands.main(["generate", "--prompt=-", f"--workdir={workdir}"])
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(UserError, match="standard output is closed"):
        commands.main(["generate", "--prompt=a", f"--workdir={workdir}"])
