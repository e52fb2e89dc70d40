"""The conditions under which a model is asked for something, and what their difference shows.

Every suite compares the same three conditions. Only this module has their names, their look in
figures, their wording in reports and the verdicts on them.
"""

import enum
import math
from collections.abc import Mapping

from rmat_jax import colours
from rmat_jax.evals.means import Mean
from rmat_jax.train.heldout import MIN_DOCUMENTS


class Condition(enum.Enum):
    """What a model remembers when it is asked.

    Tables have this order. Figures draw the conditions in the reverse order, so that KEPT lies on
    top.
    """

    # The memory holds what was read.
    KEPT = ("o", "-", colours.BLUE)
    # The memory was emptied. The open chunk and a sliding window stay as they are.
    EMPTIED = ("s", "--", colours.VERMILLION)
    # Nothing was read before.
    ALONE = ("^", ":", colours.GREY)

    def __init__(self, marker: str, line: str, colour: str):
        self.marker, self.line, self.colour = marker, line, colour

    @property
    def style(self) -> str:
        """Marker and line as Matplotlib's format string."""
        return self.marker + self.line


KEPT, EMPTIED, ALONE = Condition

# The wording of a condition depends on what is asked: a question on a document or on a story, the
# continuation of a text, or all tokens of a text that is read through.
Wording = Mapping[Condition, str]
OF_QUESTIONS: Wording = {
    KEPT: "document in memory",
    EMPTIED: "memory emptied before the question",
    ALONE: "question alone",
}
OF_STORIES: Wording = OF_QUESTIONS | {KEPT: "facts in memory"}
OF_TEXTS: Wording = {
    KEPT: "with memory",
    EMPTIED: "memory emptied just before",
    ALONE: "on its own",
}
OF_READINGS: Wording = {KEPT: "with memory", EMPTIED: "memory emptied before each chunk"}


def conditions(has_memory: bool) -> tuple[Condition, ...]:
    """Returns the conditions that a model can be asked under. One without memory has no EMPTIED."""
    return tuple(Condition) if has_memory else (KEPT, ALONE)


def verdict(gain: Mean, what: str, unit: str, over: str) -> str:
    """Says whether something helps. A difference counts from two standard errors on.

    Args:
        gain: what it gains; positive is better.
        what: the name of the thing. It begins a sentence.
        unit: the unit of the gain.
        over: what the standard error is taken over, in the plural.
    """
    claims = (f"{what} helps", f"{what} does not help", f"{what} does not help measurably")
    return _judged(gain, claims, f"whether {what[0].lower()}{what[1:]} helps", unit, over)


def contest(gain: Mean, ours: str, other: str, unit: str, over: str) -> str:
    """Says whether one thing is better than another. Arguments as in `verdict`."""
    claims = tuple(
        f"{ours} is {how} {other}"
        for how in ("better than", "worse than", "not measurably better than")
    )
    doubt = f"whether {ours[0].lower()}{ours[1:]} is better than {other}"
    return _judged(gain, claims, doubt, unit, over)


def _judged(gain: Mean, claims: tuple[str, str, str], doubt: str, unit: str, over: str) -> str:
    if math.isnan(gain.error):
        return f"**It cannot be told from one of the {over} {doubt}:** {gain.value:+.4f} {unit}."
    size = f"{gain:+.4f} {unit} (standard error over {gain.units} {over})"
    few = f" Fewer than {MIN_DOCUMENTS} {over} are too few to trust that error." * (
        gain.units < MIN_DOCUMENTS
    )
    better, worse, neither = claims
    if gain.positive:
        return f"**{better}:** {size}.{few}"
    if gain.negative:
        return f"**{worse}:** {size}.{few}"
    return f"**{neither}:** {size} is within two standard errors of zero.{few}"
