"""A training run at work: what `generate` and `score` do, as plain functions."""

import contextlib
import itertools
import math
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from rmat_jax.config import Config, from_saved
from rmat_jax.data.sources import read_blocks
from rmat_jax.data.tokenizer import Tokenizer, load_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.infer.engine import Engine
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.scoring import score
from rmat_jax.infer.session import Session
from rmat_jax.infer.text import as_bytes
from rmat_jax.model import RMAT
from rmat_jax.signals import Signals
from rmat_jax.train.checkpoint import restore_params
from rmat_jax.types import PyTree

# bytes of a text that are held at a time
BLOCK = 1 << 16
# seconds between two lines of progress
PATIENCE = 5.0


def generate(
    workdir: Path,
    prompt: str | BinaryIO | None,
    session_file: Path | None,
    out: BinaryIO,
    **sampling,
) -> int:
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
    rules = Sampling(**sampling | {"max_new_tokens": 1} if reads_only else sampling)
    if session_file is not None:
        _check_writable(session_file)
    if prompt is None and not goes_on:
        raise UserError(
            "there is no prompt; give --prompt=TEXT, or --prompt=- and text on standard input"
        )
    blocks = filter(
        None,
        [as_bytes(prompt or "")] if isinstance(prompt, str | None) else read_blocks(prompt, BLOCK),
    )
    first = next(blocks, b"")
    if not first and not goes_on:
        raise UserError(
            "the prompt is empty; give --prompt=TEXT, or --prompt=- and text on standard input"
        )

    engine = load_engine(workdir, rows=1)
    session = engine.load(session_file) if goes_on else engine.open()
    began, start = session.tokens, time.perf_counter()
    _read_all(session, itertools.chain([first], blocks))
    read, read_seconds = session.tokens - began, time.perf_counter() - start
    start, failure = time.perf_counter(), None
    with Signals("stopping after these tokens") as signals:
        try:
            for piece in (
                () if reads_only else session.write(errors="surrogateescape", **vars(rules))
            ):
                out.write(piece.encode("utf-8", "surrogateescape"))
                out.flush()
                if signals.caught:
                    # the loop goes on to what is written already
                    session.stop()
        except OSError as error:
            # what was written is kept all the same
            session.stop()
            failure = error
        wrote, write_seconds = session.tokens - began - read, time.perf_counter() - start
        if session_file is not None:
            session.save(session_file)
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None:
        raise UserError(
            f"the text cannot be written: {failure.strerror}; make room, or write it elsewhere"
        ) from failure
    why = {
        "end": ", the end of the document",
        "stop": ", a stop sequence",
        "given up": ", interrupted",
    }
    print(
        f"\n[read {_speed(read, read_seconds)}, wrote {_speed(wrote, write_seconds)}"
        f"{why.get(session.ended, '')}; state {session.state_bytes:,} bytes"
        + (f"; {session_file} has read {session.tokens:,} tokens]" if session_file else "]"),
        file=sys.stderr,
    )
    return 128 + signals.caught if signals.caught else 0


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
        if name != "-" and (not Path(name).exists() or Path(name).is_dir()):
            raise UserError(
                f"{name} is no file that can be read; give text files, or - for standard input"
            )
    model, params, tokenizer = load_run(workdir)
    # not the main thread
    with contextlib.suppress(ValueError):
        # from here on there is a total to print
        signal.signal(signal.SIGINT, signal.default_int_handler)
    state_bytes = model.initial_state(1, closed=True).num_bytes()
    total, start, said = _Cost(0, 0.0, 0), time.perf_counter(), time.perf_counter()

    def line(cost, name):
        return f"{cost.nats / math.log(2) / max(cost.size, 1):8.4f} bits per byte  {cost.size:13,} bytes  {name}"

    def finish(total):
        if total.size:
            speed = _speed(total.tokens, time.perf_counter() - start)
            print(line(total, f"total: {speed}, state {state_bytes:,} bytes"), file=out, flush=True)

    so_far = _Cost(0, 0.0, 0)
    try:
        for name in files:
            so_far = _Cost(0, 0.0, 0)
            with (
                contextlib.nullcontext(sys.stdin.buffer)
                if name == "-"
                else Path(name).open("rb") as opened
            ):
                for so_far in _costs(model, params, tokenizer, opened):
                    if time.perf_counter() - said > PATIENCE:
                        said = time.perf_counter()
                        now = total + so_far
                        print(
                            line(now, f"so far: {_speed(now.tokens, said - start)}"),
                            file=sys.stderr,
                        )
            if so_far.size:
                print(line(so_far, name), file=out, flush=True)
                total += so_far
            else:
                print(f"{'':9}empty, not scored  {name}", file=out, flush=True)
            so_far = _Cost(0, 0.0, 0)
        finish(total)
    except KeyboardInterrupt:
        # of the document that was interrupted, what was scored of it
        finish(total + so_far)
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or 'the output'} cannot be read or written: {error.strerror}"
        ) from error


class _Cost(NamedTuple):
    """Of a text, or the scored part of one."""

    tokens: int
    nats: float
    # bytes
    size: int

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(*(a + b for a, b in zip(self, other, strict=True)))


def _costs(model: RMAT, params: PyTree, tokenizer: Tokenizer, opened: BinaryIO) -> Iterator[_Cost]:
    """Running totals of one document; nothing for an empty one."""
    # tokens and bytes of the blocks that are not scored yet
    read: deque[tuple[int, int]] = deque()

    def pieces():
        for block in read_blocks(opened, BLOCK):
            tokens = tokenizer.encode(block)
            read.append((len(tokens), len(block)))
            yield tokens

    before = size = 0
    for scored in score(model, params, pieces(), tokenizer.end):
        new, before = scored.tokens - before, scored.tokens
        while read and new >= read[0][0]:
            new, size = new - read[0][0], size + read.popleft()[1]
        # part of a block: its share of the block's bytes
        if read:
            tokens, block = read.popleft()
            size += block * new // tokens
            read.appendleft((tokens - new, block - block * new // tokens))
        if size:
            yield _Cost(scored.tokens, scored.nats, size)


def load_run(workdir: str | Path) -> tuple[RMAT, PyTree, Tokenizer]:
    """The model, the newest weights and the tokenizer of a training run. Raises UserError where one
    is missing.
    """
    params, values, *_ = restore_params(Path(workdir) / "checkpoints")
    config = from_saved(Config, values)
    return RMAT(config.model), params, load_tokenizer(config, Path(workdir) / "tokenizer")


def load_engine(workdir: str | Path, rows: int = 8) -> Engine:
    """An engine with the newest weights of a training run, for `rows` sessions at a time."""
    return Engine(*load_run(workdir), rows=rows)


def _read_all(session: Session, blocks: Iterable[bytes]) -> None:
    """Reads on, a block at a time, with a line of progress now and then."""
    began, start, said = session.tokens, time.perf_counter(), time.perf_counter()
    for block in blocks:
        session.read(block)
        session.catch_up()
        if time.perf_counter() - said > PATIENCE:
            said = time.perf_counter()
            print(f"  read {_speed(session.tokens - began, said - start)}", file=sys.stderr)


def _check_writable(file: Path) -> None:
    """Before any work: it would be lost. Raises UserError."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(
            f"{file} cannot be written: there is no folder {file.parent}; make it first"
        )
    if file.is_dir() or (file.exists() and not file.is_file()):
        raise UserError(f"--session={file} is no file but a folder or a device; give a file")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror}; choose a folder that can be written to"
        ) from error


def _speed(tokens: int, seconds: float) -> str:
    return f"{tokens:,} tokens ({tokens / max(seconds, 1e-9):,.0f} a second)"
