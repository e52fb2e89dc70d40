"""Measures what texts cost a trained model, in bits per byte.

    python -m rmat_jax score my_program.py
    python -m rmat_jax score --workdir=runs/quickstart story.txt another.txt
    zcat log.gz | python -m rmat_jax score --workdir=runs/mine -

The first example uses the small model that comes with the package. Each file is one document. Texts
may have any length, and memory does not grow with them. The last line is the total. Ctrl-C prints
the total up to there.
"""

import argparse
import contextlib
import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TextIO

from rmat_jax import flags
from rmat_jax.errors import UserError
from rmat_jax.progress import Progress, say

if TYPE_CHECKING:
    from rmat_jax.data.tokenizer import Tokenizer
    from rmat_jax.model import RMAT
    from rmat_jax.types import PyTree

# bytes of a text that are held at a time
BLOCK = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_weights(parser)
    flags.add_step(parser)
    flags.add_devices(parser)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a text to score; - reads standard input"
    )


def main(args: argparse.Namespace) -> None:
    if "-" in args.files:
        flags.stdin()
    score_files(args.workdir, args.files, flags.stdout(), args.step, args.devices)


def score_files(
    workdir: Path | None,
    files: Sequence[str],
    out: TextIO,
    step: int | str | None = None,
    devices: int = 1,
) -> None:
    """Prints the cost of each file in bits per byte, and the total, even when it is interrupted.

    Args:
        workdir: where the weights lie; None: in the package.
        files: paths; "-" is standard input.
        out: the stream for the lines.
        step: the checkpoint's step; see `load_run`.
        devices: how many devices read a long text together.

    Raises:
        UserError: bad input.
    """
    for name in files:
        if name != "-" and (not Path(name).exists() or Path(name).is_dir()):
            raise UserError(
                f"{name} is no file that can be read; give text files, or - for standard input"
            )
    # JAX is imported here.
    from rmat_jax.modules.state import initial_state
    from rmat_jax.runs import load_run

    flags.tell_weights(workdir)
    model, params, tokenizer = load_run(workdir, step)
    # From here on there is a total to print.
    flags.interrupts_raise()
    state_bytes = initial_state(model.config, 1).num_bytes()
    total, progress = _Cost(0, 0.0, 0), Progress()

    def line(cost, name):
        bits = cost.nats / math.log(2) / max(cost.size, 1)
        return f"{bits:8.4f} bits per byte  {cost.size:13,} bytes  {name}"

    def finish(total):
        if total.size:
            pace = progress.speed(total.tokens)
            print(line(total, f"total: {pace}, state {state_bytes:,} bytes"), file=out, flush=True)

    so_far = _Cost(0, 0.0, 0)
    try:
        for name in files:
            so_far = _Cost(0, 0.0, 0)
            with (
                contextlib.nullcontext(sys.stdin.buffer)
                if name == "-"
                else Path(name).open("rb") as opened
            ):
                for so_far in _costs(model, params, tokenizer, opened, devices):
                    if progress.due():
                        now = total + so_far
                        say(line(now, f"so far: {progress.speed(now.tokens)}"))
            if so_far.size:
                print(line(so_far, name), file=out, flush=True)
                total += so_far
            else:
                print(f"{'':9}empty, not scored  {name}", file=out, flush=True)
            so_far = _Cost(0, 0.0, 0)
        finish(total)
    except KeyboardInterrupt:
        # The document that was interrupted counts as far as it was scored.
        finish(total + so_far)
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or 'the output'} cannot be read or written: {error.strerror}"
        ) from error


class _Cost(NamedTuple):
    """The cost of a text, or of the part of it that is scored."""

    tokens: int
    nats: float
    # bytes
    size: int

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(*(a + b for a, b in zip(self, other, strict=True)))


def _costs(
    model: "RMAT",
    params: "PyTree",
    tokenizer: "Tokenizer",
    opened: BinaryIO,
    devices: int,
) -> Iterator[_Cost]:
    """Yields the running totals of one document, and nothing for an empty one."""
    from rmat_jax.data.sources import read_blocks
    from rmat_jax.infer.scoring import score

    # tokens and bytes of the blocks that are not scored yet
    read: deque[tuple[int, int]] = deque()

    def pieces():
        for index, block in enumerate(read_blocks(opened, BLOCK)):
            tokens = tokenizer.encode(block, first=index == 0)
            read.append((len(tokens), len(block)))
            yield tokens

    before = size = 0
    for scored in score(model, params, pieces(), tokenizer.end, devices):
        new, before = scored.tokens - before, scored.tokens
        while read and new >= read[0][0]:
            new, size = new - read[0][0], size + read.popleft()[1]
        # A part of a block counts with its share of the block's bytes.
        if read:
            tokens, block = read.popleft()
            size += block * new // tokens
            read.appendleft((tokens - new, block - block * new // tokens))
        if size:
            yield _Cost(scored.tokens, scored.nats, size)
