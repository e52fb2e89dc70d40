"""Prints what a long piece of work is doing, how far it is and how fast.

May import: nothing.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# the time between two lines of progress
PATIENCE_SECONDS = 5.0


def say(text: str) -> None:
    """Prints a line of progress on standard error at once, if it is open."""
    with contextlib.suppress(OSError, ValueError):
        _print(text, sys.stderr)


def tell(text: str) -> None:
    """Prints a result on standard output at once.

    If standard output is gone, a warning says so and the work goes on.
    """
    try:
        _print(text, sys.stdout)
    except (OSError, ValueError) as error:
        drop_stdout()
        say(f"warning: standard output is gone ({error}); the work goes on without it")


def drop_stdout() -> None:
    """Discards standard output from here on, which Python would try to write again at its exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        # standard output is closed, or no file
        sys.stdout = None


def _print(text: str, stream: TextIO | None) -> None:
    """Prints a text; characters that the stream's encoding lacks are replaced."""
    if stream is not None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


class BestEffort:
    """Runs blocks whose failure must not end a piece of work, and warns of each failure once."""

    def __init__(self, work: str):
        """Args: work: the name of the work, for the warnings."""
        self._work, self._warned = work, set()

    @contextlib.contextmanager
    def __call__(self, what: str | Path) -> Iterator[None]:
        """Swallows the errors of the block.

        Args:
            what: the name of what the block writes, for the warning.
        """
        try:
            yield
        except Exception as error:
            if what not in self._warned:
                self._warned.add(what)
                cause = error.__cause__ or error
                cause = getattr(cause, "strerror", None) or cause
                cause = " ".join(f"{cause}".split())
                say(f"warning: {what} cannot be written ({cause}); {self._work} goes on without it")


class Progress:
    """Tells how long a piece of work has taken, and when its next line is due."""

    def __init__(self, patience: float | None = None):
        """Begins the work.

        Args:
            patience: seconds between two lines; None: PATIENCE_SECONDS.
        """
        self._patience = PATIENCE_SECONDS if patience is None else patience
        self._begun = self._said = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.perf_counter() - self._begun

    def due(self) -> bool:
        """Says whether a line is due. If so, the time until the next one begins."""
        now = time.perf_counter()
        due = now - self._said > self._patience
        if due:
            self._said = now
        return due

    def speed(self, tokens: int) -> str:
        """Says how many tokens were read or written since the work began, and how many a second."""
        return f"{tokens:,} tokens ({tokens / max(self.seconds, 1e-9):,.0f} a second)"
