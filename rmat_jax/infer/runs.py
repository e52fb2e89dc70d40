"""A training run at work: what `generate` and `score` do, as plain functions."""

import contextlib
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from rmat_jax.checkpoint import restore_params
from rmat_jax.config import Config, UserError, from_dict
from rmat_jax.data.sources import read_blocks
from rmat_jax.data.tokenizer import Tokenizer, load_tokenizer
from rmat_jax.infer.engine import Engine, Sampling, Session
from rmat_jax.infer.scoring import score
from rmat_jax.infer.text import as_bytes
from rmat_jax.model import RMAT
from rmat_jax.signals import Signals
from rmat_jax.types import PyTree

BLOCK = 1 << 16  # bytes of a text that are held at a time
PATIENCE = 5.0  # seconds between two lines of progress


def generate(workdir: Path, prompt: str | BinaryIO | None, session_file: Path | None, out: BinaryIO, **sampling) -> int:
    """Goes on with a text, written to `out` as it comes.

    Args:
        workdir: of a training run.
        prompt: text, or an open file of any length. None: goes on with the session as it stands.
        session_file: goes on from there if it exists; where the text ended is saved there.
        out: gets the bytes that were written, characters whole.
        sampling: see `Sampling`; with `max_new_tokens=0` the prompt is only read.

    Returns:
        The exit code: 0, or 128 + the signal that ended the text; the session is saved then too.

    Raises:
        UserError: bad input.
    """
    goes_on = session_file is not None and session_file.exists()
    reads_only = sampling.get("max_new_tokens") == 0
    if reads_only and session_file is None:
        raise UserError(
            "max_new_tokens=0 must be at least 1; it may be 0 with --session=FILE, which keeps what was read"
        )
    sampling = Sampling(**sampling | {"max_new_tokens": 1} if reads_only else sampling)
    if session_file is not None and not session_file.absolute().parent.is_dir():
        raise UserError(f"{session_file} cannot be written: there is no folder {session_file.parent}; make it first")
    if prompt is None and not goes_on:
        raise UserError("there is no prompt; give --prompt=TEXT, or --prompt=- and text on standard input")
    blocks = [as_bytes(prompt or "")] if isinstance(prompt, str | None) else read_blocks(prompt, BLOCK)
    blocks = filter(None, blocks)
    first = next(blocks, b"")
    if not first and not goes_on:
        raise UserError("the prompt is empty; give --prompt=TEXT, or --prompt=- and text on standard input")

    engine = load_engine(workdir, rows=1)
    session = engine.load(session_file) if goes_on else engine.open(first)
    if goes_on:
        session.read(first)
    before, start = session.tokens, time.perf_counter()
    _read_all(session, blocks)
    read, read_seconds = session.tokens - before, time.perf_counter() - start
    caught = 0
    start = time.perf_counter()
    if not reads_only:
        with Signals("stopping after these tokens") as signals:
            try:
                for piece in session.write(errors="surrogateescape", **vars(sampling)):
                    out.write(piece.encode("utf-8", "surrogateescape"))
                    out.flush()
                    if signals.caught:
                        session.stop()  # the loop goes on to what is written already
            except BrokenPipeError:
                _save(session, session_file)
                raise
            caught = signals.caught
    wrote, write_seconds = session.tokens - before - read, time.perf_counter() - start
    _save(session, session_file)
    why = {"end": ", the end of the document", "stop": ", a stop sequence", "given up": ", interrupted"}
    print(
        f"\n[read {_speed(read, read_seconds)}, wrote {_speed(wrote, write_seconds)}"
        f"{why.get(session.ended, '')}; state {session.state_bytes:,} bytes"
        + (f"; {session_file} has read {session.tokens:,} tokens]" if session_file else "]"),
        file=sys.stderr,
    )
    return 128 + caught if caught else 0


def score_files(workdir: Path, files: Sequence[str], out: TextIO) -> None:
    """Prints what each file costs, in bits per byte, and the total, also if interrupted.

    Args:
        workdir: of a training run.
        files: paths; "-" is standard input.
        out: gets the lines.

    Raises:
        UserError: bad input.
    """
    for name in files:
        if name != "-" and not Path(name).is_file():
            raise UserError(f"{name} is no file that can be read; give text files, or - for standard input")
    model, params, tokenizer = load_run(workdir)
    read = tokens = 0  # bytes, and tokens, of all documents
    nats, start, said = 0.0, time.perf_counter(), time.perf_counter()

    def pieces(opened):
        nonlocal read
        for block in read_blocks(opened, BLOCK):
            read += len(block)
            yield tokenizer.encode(block)

    def line(nats, size, name):
        return f"{nats / math.log(2) / size:8.4f} bits per byte  {size:13,} bytes  {name}"

    try:
        for name in files:
            before = read, tokens, nats
            with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as opened:
                for so_far in score(model, params, pieces(opened), tokenizer.end):
                    tokens, nats = before[1] + so_far.tokens, before[2] + so_far.nats
                    if time.perf_counter() - said > PATIENCE:
                        said = time.perf_counter()
                        print(f"  {_speed(tokens, said - start)}", file=sys.stderr)
            size = read - before[0]
            print(
                line(nats - before[2], size, name) if size else f"{'':9}empty, not scored  {name}", file=out, flush=True
            )
            if not size:
                tokens, nats = before[1:]
    finally:
        if tokens:
            state = model.initial_state(1, closed=True).num_bytes()
            summary = f"total: {_speed(tokens, time.perf_counter() - start)}, state {state:,} bytes"
            print(line(nats, read, summary), file=out)


def load_run(workdir: str | Path) -> tuple[RMAT, PyTree, Tokenizer]:
    """The model, the newest weights and the tokenizer of a training run. Raises UserError where one is missing."""
    params, values, _ = restore_params(Path(workdir) / "checkpoints")
    config = from_dict(Config, values)
    return RMAT(config.model), params, load_tokenizer(config, Path(workdir) / "tokenizer")


def load_engine(workdir: str | Path, rows: int = 8) -> Engine:
    """An engine with the newest weights of a training run, for `rows` sessions at a time."""
    return Engine(*load_run(workdir), rows=rows)


def _read_all(session: Session, blocks: Iterable[bytes]) -> None:
    """Reads on, a block at a time, with a line of progress now and then."""
    start = said = time.perf_counter()
    session.catch_up()
    for block in blocks:
        session.read(block)
        session.catch_up()
        if time.perf_counter() - said > PATIENCE:
            said = time.perf_counter()
            print(f"  {_speed(session.tokens, said - start)}", file=sys.stderr)


def _save(session: Session, file: Path | None) -> None:
    if file is not None:
        session.save(file)


def _speed(tokens: int, seconds: float) -> str:
    return f"{tokens:,} tokens ({tokens / max(seconds, 1e-9):,.0f} a second)"
