"""Continues a text, and prints the new part as it is written.

    python -m rmat_jax generate --prompt="def main("
    python -m rmat_jax generate --workdir=runs/quickstart --prompt="def main("
    cat story.txt | python -m rmat_jax generate --workdir=runs/mine --prompt=- --temperature=0.7
    python -m rmat_jax generate --workdir=runs/mine --session=ann.safetensors --prompt="Ann: Hello."

The first example uses the small model that comes with the package. The third reads a prompt of any
length from standard input. The last keeps what the model remembers in a file, and the next command
with the same --session goes on from there. Ctrl-C ends the text, and the session is saved then too.
"""

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rmat_jax import flags
from rmat_jax.errors import UserError
from rmat_jax.files import check_writable
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.text import as_bytes
from rmat_jax.progress import Progress, say
from rmat_jax.signals import Signals

if TYPE_CHECKING:
    from rmat_jax.infer.session import Session

# bytes of a prompt that are held at a time
BLOCK = 1 << 16

SAMPLING = {
    "max_new_tokens": ("N", "write at most N tokens (default %(default)s)"),
    "temperature": (
        "X",
        "the temperature of sampling; 0 always takes the most likely token (default %(default)s)",
    ),
    "top_k": ("K", "sample from the K most likely tokens; 0: no limit (default %(default)s)"),
    "top_p": (
        "P",
        "sample from the most likely tokens whose probabilities add up to P; 1: no limit "
        "(default %(default)s)",
    ),
    "seed": (
        "N",
        "the seed of the random choices; the same seed gives the same text (default %(default)s)",
    ),
    "stop": ("TEXT", "end before the model writes TEXT; may be given several times"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_weights(parser)
    flags.add_step(parser)
    flags.add_devices(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="the text to go on with; - reads standard input"
    )
    parser.add_argument(
        "--session",
        type=flags.folder,
        metavar="FILE",
        help="a file that keeps what was read and written; the next command goes on from it",
    )
    flags.add_fields(parser, Sampling, SAMPLING)


def main(args: argparse.Namespace) -> int:
    prompt = flags.stdin() if args.prompt == "-" else args.prompt
    out = flags.stdout().buffer
    sampling = flags.fields_of(args, Sampling)
    return generate(
        args.workdir,
        prompt,
        args.session,
        out,
        step=args.step,
        devices=args.devices,
        **sampling,
    )


def generate(
    workdir: Path | None,
    prompt: str | BinaryIO | None,
    session_file: Path | None,
    out: BinaryIO,
    *,
    step: int | str | None = None,
    devices: int = 1,
    **sampling,
) -> int:
    """Goes on with a text, and writes the new part to `out` as it comes.

    Args:
        workdir: where the weights lie; None: in the package.
        prompt: text, or an open file of any length. None goes on with the session as it stands.
        session_file: a file to go on from, if it exists. The session is saved there at the end.
        out: the stream for the new bytes, in whole characters.
        step: the checkpoint's step; see `load_run`.
        devices: how many devices read a long prompt together.
        sampling: the fields of `Sampling`. With `max_new_tokens=0` the prompt is only read.

    Returns:
        The exit code: 0, or 128 + the signal that ended the text. The session is saved then too.

    Raises:
        UserError: bad input.
    """
    goes_on = session_file is not None and session_file.exists()
    reads_only = sampling.get("max_new_tokens") == 0
    if reads_only and session_file is None:
        raise UserError(
            "max_new_tokens=0 must be at least 1; "
            "it may be 0 with --session=FILE, which keeps what was read"
        )
    rules = Sampling(**sampling | {"max_new_tokens": 1} if reads_only else sampling)
    if session_file is not None:
        check_writable(session_file)
    if prompt is None and not goes_on:
        raise UserError(
            "there is no prompt; give --prompt=TEXT, or --prompt=- and text on standard input"
        )

    from rmat_jax.data.sources import read_blocks

    blocks = filter(
        None,
        [as_bytes(prompt or "")]
        if isinstance(prompt, str | None)
        else read_blocks(prompt, BLOCK * devices),
    )
    first = next(blocks, b"")
    if not first and not goes_on:
        raise UserError(
            "the prompt is empty; give --prompt=TEXT, or --prompt=- and text on standard input"
        )

    # JAX is imported here.
    from rmat_jax.runs import load_engine

    flags.tell_weights(workdir)
    engine = load_engine(workdir, rows=1, step=step, devices=devices)
    session = engine.load(session_file) if goes_on else engine.open()
    read = _read_all(session, itertools.chain([first], blocks))
    writing, begun, failure = Progress(), session.tokens, None
    with Signals("stopping after these tokens") as signals:
        try:
            text = () if reads_only else session.write(errors="surrogateescape", **vars(rules))
            for piece in text:
                out.write(piece.encode("utf-8", "surrogateescape"))
                out.flush()
                if signals.caught:
                    # The loop still prints the pieces that are written already.
                    session.stop()
        except OSError as error:
            # The session keeps what was written all the same.
            session.stop()
            failure = error
        wrote = writing.speed(session.tokens - begun)
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
        f"\n[read {read}, wrote {wrote}"
        f"{why.get(session.ended, '')}; state {session.state_bytes:,} bytes"
        + (f"; {session_file} has read {session.tokens:,} tokens]" if session_file else "]"),
        file=sys.stderr,
    )
    return 128 + signals.caught if signals.caught else 0


def _read_all(session: "Session", blocks: Iterable[bytes]) -> str:
    """Reads all blocks, with lines of progress. Returns the number of tokens and the speed."""
    began, progress = session.tokens, Progress()
    for block in blocks:
        session.read(block)
        session.catch_up()
        if progress.due():
            say(f"  read {progress.speed(session.tokens - began)}")
    return progress.speed(session.tokens - began)
