"""Compares two results, with tolerances that follow from rounding, and makes a table. NumPy only.

docs/crosscheck.md explains where the tolerances come from.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from rmat_jax.config import RMATConfig
from rmat_jax.interop.case import Case, Results

# a tolerance relative to the largest entry of a tensor
FLOAT64_TOLERANCE = 1e-9
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
# lambda of Higham and Mary (2019): a sum breaks its bound with probability 2 exp(-lambda^2 / 2) =
# 3e-8.
CONFIDENCE = 6.0
# the number of perturbed runs
SAMPLES = 2
# the quantities in which the first difference is searched
FORWARD = ("layer output", "memory", "logits")
QUANTITIES = (
    *FORWARD,
    "loss",
    "gradient",
    "training loss",
    "gradient norm",
    "update",
    "streamed logits",
    "streamed memory",
)

# absolute differences by (quantity, place)
Spread = dict[tuple[str, str], float]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two results."""

    quantity: str
    place: str
    # the index of the entry that differs most
    index: tuple[int, ...]
    # the largest difference
    absolute: float
    # the largest difference over the largest expected entry
    relative: float
    # the tolerance of `absolute`
    tolerance: float

    @property
    def passed(self) -> bool:
        # an infinite tolerance comes from infinite results, which cannot be checked
        return self.absolute <= self.tolerance < math.inf

    @property
    def share(self) -> float:
        """The difference over its tolerance. Above 1 the comparison fails."""
        return self.absolute / self.tolerance if self.tolerance else math.inf * bool(self.absolute)

    @property
    def where(self) -> str:
        return self.place + (f" [{', '.join(map(str, self.index))}]" if self.index else "")


def rounding(model: RMATConfig, tokens: int, dtype: str) -> float:
    """The relative perturbation of the weights that has the effect of rounding, gamma =
    u (lambda sqrt(n) + 4 C).

    n is the length of the model's longest sum; in gradients it runs over `tokens`. The second term
    is that of RoPE's angles, which reach as many radians as tokens lie before the farthest key, at
    least C, and are off by up to four roundings.
    """
    window = model.local.window if model.carries_window else 0
    keys = farthest = max(model.chunk_len, window)
    if model.memory:
        slots, writes = model.memory.slots, model.memory.writes
        keys = keys + slots if model.memory.joint else max(keys, slots)
        if model.memory.joint:
            farthest = max(farthest, model.chunk_len * slots // writes)
    longest = max(model.width, model.mlp_width, model.vocab_size, keys, tokens)
    return UNIT_ROUNDOFF[dtype] * (CONFIDENCE * math.sqrt(longest) + 4 * farthest)


def measure_spread(
    case: Case, run: Callable[[Case], Iterator[Results]], exact: Results, dtype: str
) -> Spread:
    """Measures how far each result moves when every weight moves by the rounding of `dtype`.

    It takes the largest move of a few random draws. Besides, each optimiser step rounds the weights
    themselves, which shows in full in an update, since that is a difference of weights.

    Args:
        case: the case to compute.
        run: computes a case in float64.
        exact: what `run` returns for the case as it is.
        dtype: the type whose rounding is measured.
    """
    gamma = rounding(case.config.model, case.tokens.size, dtype)
    spread = dict.fromkeys(exact, 0.0)
    for seed in range(SAMPLES):
        rng = np.random.default_rng(seed)
        weights = {
            n: x * (1 + gamma * rng.choice([-1.0, 1.0], size=x.shape))
            for n, x in case.weights.items()
        }
        for part in run(dataclasses.replace(case, weights=weights)):
            for key, moved in part.items():
                spread[key] = max(spread[key], float(np.abs(moved - exact[key]).max()))
    steps = len(case.step_tokens)
    for key in spread:
        if key[0] == "update":
            spread[key] += steps * UNIT_ROUNDOFF[dtype] * float(np.abs(case.weights[key[1]]).max())
    return spread


def compare(
    case: Case, actual: Results, expected: Results, spread: Spread | None, dtype: str
) -> list[Difference]:
    """Compares each result that both have.

    A result whose terms all cancel has no scale of its own, so no tolerance is below the rounding
    of the largest entry of its quantity.

    Args:
        case: the case.
        actual: the results to check.
        expected: the results to compare with.
        spread: from `measure_spread`; None in float64, which has a fixed relative tolerance.
        dtype: the type of the computation.
    """
    gamma = rounding(case.config.model, case.tokens.size, dtype)
    largest = {key: float(np.abs(x).max()) for key, x in expected.items()}
    scale = {
        quantity: max((x for key, x in largest.items() if key[0] == quantity), default=0)
        for quantity in QUANTITIES
    }
    found = []
    for key in (key for key in expected if key in actual):
        if actual[key].shape != expected[key].shape:
            found.append(Difference(*key, (), math.inf, math.inf, 0.0))
            continue
        # infinity minus itself is NaN, which is replaced below
        with np.errstate(invalid="ignore"):
            gap = np.abs(actual[key] - expected[key])
        gap = np.where(np.isnan(gap), np.inf, gap)
        index = np.unravel_index(int(gap.argmax()), gap.shape)
        absolute = float(gap[index])
        # Each of the two results may be off by the spread.
        own = FLOAT64_TOLERANCE * largest[key] if dtype == "float64" else 2 * spread[key]
        tolerance = max(own, gamma * scale[key[0]])
        relative = absolute / largest[key] if largest[key] else math.inf * bool(absolute)
        found.append(Difference(*key, tuple(map(int, index)), absolute, relative, tolerance))
    return found


def first_difference(differences: list[Difference]) -> Difference | None:
    """The first failure of the forward pass, in the order of the computation, or else the first
    failure of any kind.
    """
    failed = [d for d in differences if not d.passed]
    return next((d for d in failed if d.quantity in FORWARD), failed[0] if failed else None)


def table(differences: list[Difference]) -> str:
    """A table with a line for each quantity, at its worst place. It is Markdown that also reads
    well in a terminal.
    """
    header = (
        "quantity",
        "compared",
        "absolute",
        "relative",
        "tolerance",
        "share",
        "worst at",
        "verdict",
    )
    rows = [header]
    for quantity in QUANTITIES:
        of_it = [d for d in differences if d.quantity == quantity]
        if not of_it:
            continue
        worst = max(of_it, key=lambda d: d.share)
        failed = sum(not d.passed for d in of_it)
        numbers = [f"{x:.1e}" for x in (worst.absolute, worst.relative, worst.tolerance)]
        verdict = f"{failed} of {len(of_it)} DIFFER" if failed else "equal"
        rows.append(
            (quantity, str(len(of_it)), *numbers, f"{worst.share:.0%}", worst.where, verdict)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def to_json(differences: list[Difference]) -> list[dict]:
    """Every comparison as plain values. Values that are not finite become null, for JSON."""
    rows = [dataclasses.asdict(d) | {"share": d.share, "passed": d.passed} for d in differences]
    return [
        {k: None if isinstance(x, float) and not math.isfinite(x) else x for k, x in row.items()}
        for row in rows
    ]
