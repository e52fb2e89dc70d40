"""Computes what a text costs after what a session has read, under each condition.

`dialogue` does so for turns and `code` for lines. The suites that ask questions use only
`finite_costs` and `groups_of`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rmat_jax.drawing import legend, save
from rmat_jax.errors import UserError
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_TEXTS, Condition, conditions
from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.infer import Cost, Engine, Session

# the number of sessions that are read side by side
ROWS = 8


def groups_of(size: int, values: Sequence) -> list[Sequence]:
    """Cuts a sequence into pieces of `size`; the last one may be shorter."""
    return [values[at : at + size] for at in range(0, len(values), size)]


def finite_costs(engine: Engine, asked: Sequence[tuple[Session, str | bytes]]) -> list[Cost]:
    """Returns what `Engine.costs` does.

    Raises:
        UserError: a cost is not finite.
    """
    costs = engine.costs(asked)
    if not all(np.isfinite(cost.nats).all() for cost in costs):
        raise UserError(
            "the model's probabilities are not finite: its weights hold NaN or infinity; "
            "use another step"
        )
    return costs


class Next(NamedTuple):
    """A text that comes next in a stream."""

    # a session that has read all that stands before
    session: Session
    # one token or more that are read and not counted; the memory is emptied before them
    lead: np.ndarray
    # the tokens that are counted
    text: np.ndarray


def costs(engine: Engine, asked: Sequence[Next]) -> list[dict[Condition, Cost]]:
    """Returns what each text costs under each condition. The sessions stay where they are.

    The open chunk is never emptied. Under ALONE a text and its lead stand at the beginning of a
    document.
    """
    alone, ways, rows = engine.open(), conditions(bool(engine.model.config.memory)), []
    for session, lead, text in asked:
        forks = {KEPT: session, EMPTIED: session.fork(forget=True), ALONE: alone}
        # The lead is scored with the text and not counted, which is faster than forks that read it.
        rows += [(forks[condition], np.concatenate([lead, text])) for condition in ways]
    found = iter(finite_costs(engine, rows))
    return [{condition: _last(next(found), len(one.text)) for condition in ways} for one in asked]


def _last(cost: Cost, count: int) -> Cost:
    return Cost(*(values[-count:] for values in cost))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What n texts cost, one entry each."""

    # the bits of each text by condition, [n]
    bits: Mapping[Condition, np.ndarray]
    # [n] bytes
    sizes: np.ndarray
    # [n] the number of the dialogue or the file, within which texts may depend on each other
    units: np.ndarray

    def at(self, where: np.ndarray) -> "Costs":
        """Returns the costs of some of the texts, chosen by a mask or by indices."""
        bits = {condition: values[where] for condition, values in self.bits.items()}
        return Costs(bits, self.sizes[where], self.units[where])

    def rate(self, condition: Condition) -> float:
        """Returns bits per byte; NaN where there is no text."""
        return float(self.bits[condition].sum() / self.sizes.sum()) if len(self.sizes) else math.nan

    def saved(self, condition: Condition) -> Mean:
        """Returns the bits per byte that KEPT saves against another condition."""
        saved = (self.bits[condition] - self.bits[KEPT]) / self.sizes
        return clustered_mean(np.repeat(saved, self.sizes), np.repeat(self.units, self.sizes))

    def numbers(self) -> dict[str, Any]:
        """Returns every number for `report.json`."""
        return {
            "texts": len(self.sizes),
            "bytes": int(self.sizes.sum()),
            "bits_per_byte": {OF_TEXTS[of]: self.rate(of) for of in self.bits},
            "saved": {OF_TEXTS[of]: self.saved(of)._asdict() for of in others(self.bits)},
        }


def others(ways: Iterable[Condition]) -> list[Condition]:
    """Returns the conditions that KEPT is compared with."""
    return [condition for condition in ways if condition != KEPT]


def head(name: str, ways: Iterable[Condition]) -> tuple[str, ...]:
    """Returns the head of a table of costs; `name` heads the column of the groups."""
    ways = tuple(ways)
    return (
        name,
        "texts",
        *(OF_TEXTS[condition] for condition in ways),
        *(f"saved against: {OF_TEXTS[condition]}" for condition in others(ways)),
    )


def lines(groups: Mapping[str, Costs]) -> list[tuple[str, ...]]:
    """Returns a line for each group, with the columns of `head`."""
    return [
        (
            name,
            f"{len(costs.sizes):,}",
            *(f"{costs.rate(condition):.3f}" for condition in costs.bits),
            *(f"{costs.saved(condition):+.4f}" for condition in others(costs.bits)),
        )
        for name, costs in groups.items()
    ]


def draw(
    file: Path,
    title: str,
    xlabel: str,
    groups: Mapping[str, Costs],
    quantity: str = "bits per byte",
) -> None:
    """Draws groups from left to right: their cost in each condition, and what the memory saves."""
    figure, (upper, lower) = plots.new_figure(title, panels=2)
    places, found = np.arange(len(groups)), list(groups.values())
    for condition in (condition for condition in reversed(Condition) if condition in found[0].bits):
        upper.plot(
            places,
            [costs.rate(condition) for costs in found],
            condition.style,
            color=condition.colour,
            markersize=4.5,
            linewidth=1.4,
            label=OF_TEXTS[condition],
        )
    upper.set_ylabel(quantity)
    legend(upper)
    against = EMPTIED if EMPTIED in found[0].bits else ALONE
    saved = [costs.saved(against) for costs in found]
    plots.differences(lower, places, saved, KEPT.colour, markersize=4.5)
    lower.set_ylabel("memory saves" if against == EMPTIED else "reading on saves")
    lower.set_xticks(places, groups)
    lower.set_xlabel(xlabel)
    save(figure, file)
