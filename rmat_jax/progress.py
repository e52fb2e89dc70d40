"""Lines of progress on standard error: what is at work, how far it is and how fast.

May import: nothing.
"""

import sys
import time

# between two lines of progress
PATIENCE_SECONDS = 5.0


def say(text: str) -> None:
    """Prints a line of progress at once."""
    print(text, file=sys.stderr, flush=True)


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
