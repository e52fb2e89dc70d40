"""Holds back Ctrl-C, SIGTERM and SIGHUP until a place where nothing is lost.

May import: progress.
"""

import contextlib
import signal
from collections.abc import Iterator

from rmat_jax.progress import say

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """A context in which a signal sets `caught` and prints what happens next.

    Signals are Ctrl-C, SIGTERM, and SIGHUP at the end of a terminal (unless `nohup` ignores it). A
    second Ctrl-C raises at once. A second SIGTERM does not: launchers repeat it, and SIGKILL comes
    soon enough.
    """

    def __init__(self, saying: str):
        """Args: saying: printed after the signal's name; "" prints nothing."""
        self.caught = 0
        self._saying = saying
        self._before = {}

    def __enter__(self) -> "Signals":
        try:
            for number in NUMBERS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._catch)
        except ValueError:
            # not the main thread: the caller's signals are the caller's
            pass
        return self

    def _catch(self, number, frame) -> None:
        if self.caught:
            if number != signal.SIGINT:
                return
            signal.signal(number, self._before[number])
            raise KeyboardInterrupt
        self.caught = number
        if self._saying:
            say(f"\n{signal.Signals(number).name}: {self._saying}")

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            # None: not set by Python
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Lets the block end before a signal has its usual effect."""
    with Signals("") as signals:
        yield
    if signals.caught:
        signal.raise_signal(signals.caught)
