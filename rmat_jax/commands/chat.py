"""Talks with a model, which reads each line and goes on with the text.

    python -m rmat_jax chat
    python -m rmat_jax chat --workdir=runs/quickstart
    python -m rmat_jax chat --workdir=runs/mine --session=ann.safetensors --stop="Ann:"

The first example uses the small model that comes with the package. A model remembers the whole
talk, however long it is, in a state of fixed size. With --session the talk goes on from that file,
if it exists, and is saved there at the end. Ctrl-C ends the text that is being written, or else the
talk. A model that was trained on dialogues (data.format=messages) gets each line in their template.

Lines that begin with / are commands:

    /undo            take back the last line and what was written after it
    /keep NAME       remember where the talk stands
    /go NAME         go on from there, as often as you like
    /save FILE       write the session to a file
    /load FILE       go on from a file
    /again           write on without a new line
    /help, /quit
"""

import argparse
import collections
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from rmat_jax import flags
from rmat_jax.commands.generate import SAMPLING
from rmat_jax.data.messages import asking
from rmat_jax.errors import UserError
from rmat_jax.files import check_writable
from rmat_jax.infer.sampling import Sampling
from rmat_jax.progress import say
from rmat_jax.signals import Signals

# turns that /undo can take back
TURNS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_weights(parser)
    flags.add_step(parser)
    parser.add_argument(
        "--session",
        type=flags.folder,
        metavar="FILE",
        help="a file that keeps the talk; the next command goes on from it",
    )
    flags.add_fields(parser, Sampling, SAMPLING)


def main(args: argparse.Namespace) -> int:
    # a line editor for input(), where there is one
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    lines = _typed() if flags.stdin().isatty() else sys.stdin
    return chat(
        args.workdir,
        args.session,
        lines,
        flags.stdout(),
        step=args.step,
        **flags.fields_of(args, Sampling),
    )


def chat(
    workdir: Path | None,
    session_file: Path | None,
    lines: Iterable[str],
    out: TextIO,
    *,
    step: int | str | None = None,
    **sampling,
) -> int:
    """Talks until the lines end, or one says /quit.

    Args:
        workdir: where the weights lie; None: in the package.
        session_file: a file to go on from, if it exists. The talk is saved there at the end.
        lines: the lines that the user types.
        out: the stream for the text, which is flushed piece by piece.
        step: the checkpoint's step; see `load_run`.
        sampling: the fields of `Sampling`.

    Returns:
        The exit code: 0, or 128 + the signal that ended the talk. It is saved then too.

    Raises:
        UserError: bad input before the talk begins. Later errors are printed, and the talk goes on.
    """
    rules = Sampling(**sampling)
    if session_file is not None:
        check_writable(session_file)

    # JAX is imported here.
    from rmat_jax.interop.trained import load_trained

    flags.tell_weights(workdir)
    trained = load_trained(workdir, step)
    engine = trained.engine(rows=1)
    talk = Talk(engine, rules, out, template=trained.config.data.answers_only)
    if session_file is not None and session_file.exists():
        talk.load(f"{session_file}")
    say(f"the state has {talk.session.state_bytes:,} bytes; /help lists the commands")
    ended = 0
    # There is something to lose from here on, also while a line is waited for.
    flags.interrupts_raise()
    try:
        with _signals_raise():
            for line in lines:
                try:
                    if not talk.hear(line.rstrip("\r\n")):
                        break
                except UserError as error:
                    say(f"error: {error}")
                if talk.caught not in (0, signal.SIGINT):
                    ended = 128 + talk.caught
                    break
    except _Signalled as error:
        ended = 128 + error.number
    except KeyboardInterrupt:
        ended = 128 + signal.SIGINT
    if session_file is not None:
        talk.save(f"{session_file}")
    return ended


class Talk:
    """A session with its earlier states, and the commands that change it."""

    def __init__(self, engine, rules: Sampling, out: TextIO, *, template: bool = False):
        """Begins a talk.

        Args:
            engine: the engine that makes the session.
            rules: the rules of sampling.
            out: the stream for the texts.
            template: write lines as the template of dialogues does, see `data/messages.py`.
        """
        self.engine, self.session, self._template = engine, engine.open(), template
        # the signal that ended the last text; 0: none
        self.caught = 0
        self._rules, self._out = vars(rules), out
        self._before: collections.deque = collections.deque(maxlen=TURNS)
        self._kept: dict[str, object] = {}
        self._texts = 0

    def hear(self, line: str) -> bool:
        """Takes a line or a command. Returns False after /quit. Raises UserError."""
        if not line.startswith("/"):
            self._before.append(self.session.fork())
            # a new session has read only the token that begins a document
            goes_on = self.session.tokens > 1
            self.session.read(asking(line, goes_on=goes_on) if self._template else line + "\n")
            self._write()
            return True
        name, _, value = line[1:].partition(" ")
        if name == "quit":
            return False
        plain = {"undo": self.undo, "again": self.again, "help": self.help}
        named: dict[str, Callable[[str], None]] = {
            "keep": self.keep,
            "go": self.go,
            "save": self.save,
            "load": self.load,
        }
        if name in plain and not value:
            plain[name]()
        elif name in named and value.strip():
            named[name](value.strip())
        else:
            lacks = " takes a name" if name in named else " takes nothing behind it"
            known = name in plain or name in named
            raise UserError(f"/{name}{lacks if known else ' is no command'}; /help lists them")
        return True

    def undo(self) -> None:
        """Goes back to where the session stood before the last text."""
        if not self._before:
            raise UserError("there is nothing to take back")
        self.session = self._before.pop()
        say(f"back at {self.session.tokens:,} tokens")

    def again(self) -> None:
        """Goes on writing."""
        self._before.append(self.session.fork())
        self._write()

    def keep(self, name: str) -> None:
        """Remembers where the session stands."""
        self._kept[name] = self.session.fork()
        say(f"kept as {name} at {self.session.tokens:,} tokens")

    def go(self, name: str) -> None:
        """Goes on from where `keep` has remembered this name."""
        if name not in self._kept:
            raise UserError(f"nothing is kept as {name!r}; there is {', '.join(self._kept) or '-'}")
        self._before.append(self.session)
        self.session = self._kept[name].fork()
        say(f"at {name}, {self.session.tokens:,} tokens")

    def save(self, file: str) -> None:
        """Writes the session to a file."""
        self.session.save(_path(file))
        say(f"{file} has read {self.session.tokens:,} tokens")

    def load(self, file: str) -> None:
        """Goes on from a file."""
        loaded = self.engine.load(_path(file))
        self._before.append(self.session)
        self.session = loaded
        say(f"going on from {file} at {self.session.tokens:,} tokens")

    def help(self) -> None:
        """Lists the commands."""
        say(__doc__.partition("are commands:\n\n")[2].rstrip())

    def _write(self) -> None:
        # another text each time
        rules = self._rules | {"seed": self._rules["seed"] + self._texts}
        self._texts += 1
        with Signals("stopping after these tokens") as signals:
            for piece in self.session.write(**rules):
                self._out.write(piece)
                self._out.flush()
                if signals.caught:
                    self.session.stop()
        self._out.write("\n")
        self._out.flush()
        self.caught = signals.caught


def _path(text: str) -> Path:
    try:
        return flags.folder(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{error}") from error


class _Signalled(BaseException):
    """Says that a signal came. It is no error, and nobody but `chat` catches it."""

    def __init__(self, number: int):
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP, the end of a terminal, end the wait for a line."""

    def end(number, _) -> None:
        raise _Signalled(number)

    before = {}
    try:
        # Outside the main thread signals are not ours.
        with contextlib.suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _typed() -> Iterator[str]:
    """Lines from the terminal, until Ctrl-D or Ctrl-C."""
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            return
