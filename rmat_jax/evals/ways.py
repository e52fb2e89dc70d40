"""What a text costs after what a session has read: with its memory, with the memory emptied just
before, and on its own.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rmat_jax.evals import plots
from rmat_jax.evals.answers import finite_costs
from rmat_jax.evals.heldout import Mean, clustered_mean
from rmat_jax.infer import Cost, Engine, Session

KEPT, EMPTIED, ALONE = "with memory", "memory emptied just before", "on its own"
STYLES = {ALONE: ("^:", plots.GREY), EMPTIED: ("s--", plots.VERMILLION), KEPT: ("o-", plots.BLUE)}


class Next(NamedTuple):
    """What comes next in a stream."""

    # which has read all before it
    session: Session
    # tokens, at least one, that are read and not counted: the memory is emptied before them
    lead: np.ndarray
    # tokens
    text: np.ndarray


def ways(engine: Engine) -> tuple[str, ...]:
    """A model without a memory has none to empty."""
    return (KEPT, EMPTIED, ALONE) if engine.model.config.has_memory else (KEPT, ALONE)


def costs(engine: Engine, asked: Sequence[Next]) -> list[dict[str, Cost]]:
    """What each text costs in each way; the sessions stay where they are. The open chunk is never
    emptied.

    On its own, a text and its lead stand at the beginning of a document.
    """
    alone, names, rows = engine.open(), ways(engine), []
    for session, lead, text in asked:
        forks = {KEPT: session, EMPTIED: session.fork(forget=True), ALONE: alone}
        # The lead is asked for like the text and not counted, which takes less time than forks that
        # read it.
        rows += [(forks[name], np.concatenate([lead, text])) for name in names]
    found = iter(finite_costs(engine, rows))
    return [{name: _last(next(found), len(one.text)) for name in names} for one in asked]


def _last(cost: Cost, count: int) -> Cost:
    return Cost(*(values[-count:] for values in cost))


@dataclasses.dataclass(frozen=True)
class Costs:
    """Texts, one entry each, and what they cost."""

    # by way
    bits: Mapping[str, np.ndarray]
    # bytes
    sizes: np.ndarray
    # what may depend on each other: dialogues, files
    units: np.ndarray

    def at(self, where: np.ndarray) -> "Costs":
        """Some of them."""
        bits = {way: values[where] for way, values in self.bits.items()}
        return Costs(bits, self.sizes[where], self.units[where])

    def rate(self, way: str) -> float:
        """Bits per byte; NaN for none."""
        return float(self.bits[way].sum() / self.sizes.sum()) if len(self.sizes) else math.nan

    def saved(self, way: str) -> Mean:
        """Bits per byte that the memory, and what stands before, save against another way."""
        saved = (self.bits[way] - self.bits[KEPT]) / self.sizes
        return clustered_mean(np.repeat(saved, self.sizes), np.repeat(self.units, self.sizes))

    def numbers(self) -> dict[str, Any]:
        """For JSON."""
        others = [way for way in self.bits if way != KEPT]
        return {
            "texts": len(self.sizes),
            "bytes": int(self.sizes.sum()),
            "bits_per_byte": {way: self.rate(way) for way in self.bits},
            "saved": {way: self.saved(way)._asdict() for way in others},
        }


def lines(groups: Mapping[str, Costs]) -> list[tuple[str, ...]]:
    """Of a table with the columns that `head` names."""
    return [
        (
            name,
            f"{len(costs.sizes):,}",
            *(f"{costs.rate(way):.3f}" for way in costs.bits),
            *(
                f"{m.value:+.4f} ± {m.error:.4f}"
                for m in [costs.saved(way) for way in costs.bits if way != KEPT]
            ),
        )
        for name, costs in groups.items()
    ]


def head(name: str, ways: Iterable[str]) -> tuple[str, ...]:
    ways = tuple(ways)
    return (name, "texts", *ways, *(f"saved against: {way}" for way in ways if way != KEPT))


def draw(
    file: Path,
    title: str,
    xlabel: str,
    groups: Mapping[str, Costs],
    quantity: str = "bits per byte",
) -> None:
    """Groups from left to right: what they cost in each way, and what the memory saves."""
    figure, (upper, lower) = plots.new_figure(title, panels=2)
    places, found = np.arange(len(groups)), list(groups.values())
    for way in (way for way in STYLES if way in found[0].bits):
        style, colour = STYLES[way]
        rates = [costs.rate(way) for costs in found]
        upper.plot(places, rates, style, color=colour, markersize=4.5, linewidth=1.4, label=way)
    upper.set_ylabel(quantity)
    plots.legend(upper)
    against = EMPTIED if EMPTIED in found[0].bits else ALONE
    lower.axhline(0, color=plots.INK, linewidth=0.8)
    saved = [costs.saved(against) for costs in found]
    values, errors = ([getattr(mean, name) for mean in saved] for name in ("value", "error"))
    lower.errorbar(
        places,
        values,
        2 * np.nan_to_num(errors),
        fmt="o",
        color=plots.BLUE,
        markersize=4.5,
        elinewidth=1.2,
    )
    lower.set_ylabel("memory saves" if against == EMPTIED else "reading on saves")
    lower.set_xticks(places, groups)
    lower.set_xlabel(xlabel)
    plots.save(figure, file)
