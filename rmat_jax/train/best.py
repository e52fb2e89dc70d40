"""The best point of a run: where the held-out loss was lowest, and how long ago that was."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Best(NamedTuple):
    """What the evaluations until now say."""

    # None: there was none
    step: int | None = None
    # of its held-out text, a token
    bits: float = math.inf
    # evaluations after it
    since: int = 0

    def after(self, step: int, bits: float) -> "Best":
        """The same after one more evaluation. Equal losses leave the earlier step the best."""
        return Best(step, bits) if bits < self.bits else self._replace(since=self.since + 1)


def best_of(records: Iterable[Mapping[str, Any]]) -> Best:
    """Reads the records of a run, as `read_metrics` returns them."""
    heldout = sorted(
        (record["step"], record["bits_per_token"])
        for record in records
        if record["split"] == "heldout"
    )
    return functools.reduce(lambda best, found: best.after(*found), heldout, Best())
