"""Ctrl-C and SIGTERM as a wish that is granted where nothing is lost.

May import: nothing.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator


class Signals:
    """While it is entered, Ctrl-C and SIGTERM set `caught` and say what happens next. A second
    Ctrl-C raises at once; a second SIGTERM does not: launchers repeat it, and SIGKILL comes soon
    enough."""

    def __init__(self, saying: str):
        """Args: saying: printed after the signal's name; "" prints nothing."""
        self.caught = 0
        self._saying = saying
        self._before = {}

    def __enter__(self) -> "Signals":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        except ValueError:
            # not the main thread: the caller's signals are the caller's
            pass
        return self

    def _catch(self, number, frame) -> None:
        if self.caught:
            if number == signal.SIGTERM:
                return
            signal.signal(number, self._before[number])
            raise KeyboardInterrupt
        self.caught = number
        if self._saying:
            print(f"\n{signal.Signals(number).name}: {self._saying}", file=sys.stderr, flush=True)

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            # None: not set by Python
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """What is done inside is done to its end before Ctrl-C or SIGTERM have their usual effect."""
    with Signals("") as signals:
        yield
    if signals.caught:
        signal.raise_signal(signals.caught)
