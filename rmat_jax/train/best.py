"""The step with the lowest held-out loss of a run, and the evaluations since then."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Best(NamedTuple):
    """The best evaluation until now."""

    # its step; None: there was no evaluation
    step: int | None = None
    # its held-out loss in bits a token
    bits: float = math.inf
    # the number of evaluations after it
    since: int = 0

    def after(self, step: int, bits: float) -> "Best":
        """Adds an evaluation. Of equal losses the earlier one stays the best."""
        return Best(step, bits) if bits < self.bits else self._replace(since=self.since + 1)


def best_of(records: Iterable[Mapping[str, Any]]) -> Best:
    """Finds the best evaluation in the records of a run, as `read_metrics` returns them."""
    heldout = sorted(
        (record["step"], record["bits_per_token"])
        for record in records
        if record["split"] == "heldout"
    )
    return functools.reduce(lambda best, found: best.after(*found), heldout, Best())
