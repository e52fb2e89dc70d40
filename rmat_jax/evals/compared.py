"""Answers under several conditions side by side: bits and scores, what memory gains, and whether
that is more than noise.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.evals import plots
from rmat_jax.evals.answers import ALONE, EMPTIED, KEPT, Answer
from rmat_jax.evals.heldout import MIN_DOCUMENTS, Mean, clustered_mean, offset_bins
from rmat_jax.evals.suite import table

# of a written text, against all references
Score = Callable[[str, Sequence[str]], float]

STYLES = {ALONE: ("^:", plots.GREY), EMPTIED: ("s--", plots.VERMILLION), KEPT: ("o-", plots.BLUE)}
BITS = "bits per byte"


def bits_per_byte(answers: Sequence[Answer], condition: str) -> float:
    return sum(answer.bits[condition] for answer in answers) / sum(
        answer.num_bytes for answer in answers
    )


def saved(answers: Sequence[Answer], condition: str) -> Mean:
    """Bits a byte that the document in memory saves, against another condition. Questions on one
    document are a unit.
    """
    sizes = np.array([answer.num_bytes for answer in answers])
    bits = np.array([answer.bits[condition] - answer.bits[KEPT] for answer in answers])
    return clustered_mean(np.repeat(bits / sizes, sizes), np.repeat(documents(answers), sizes))


def documents(answers: Sequence[Answer]) -> np.ndarray:
    return np.array([answer.document for answer in answers])


def of_others(answers: Sequence[Answer]) -> list[str]:
    """For each question the reference of the next one on another document, which shows what luck
    scores; "": no other.
    """
    found = []
    for place, answer in enumerate(answers):
        others = (*answers[place + 1 :], *answers[:place])
        found.append(
            next((a.asked.references[0] for a in others if a.document != answer.document), "")
        )
    return found


def compare(
    answers: Sequence[Answer], scores: Mapping[str, Score], baselines: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, Any]]:
    """Tables and verdicts as markdown, and the numbers.

    Args:
        answers: of `ask`, one or more.
        scores: of what was written, by name; the last one is judged.
        baselines: other texts by name, one for each question.
    """
    texts = {
        condition: [answer.written[condition] for answer in answers]
        for condition in answers[0].bits
    }
    texts |= {name: list(of) for name, of in baselines.items()}
    scored = {
        (name, score): np.array(
            [of(text, a.asked.references) for text, a in zip(written, answers, strict=True)]
        )
        for name, written in texts.items()
        for score, of in scores.items()
    }
    means = {name: {BITS: bits_per_byte(answers, name)} for name in answers[0].bits} | {
        name: {} for name in baselines
    }
    gains = {name: {BITS: saved(answers, name)} for name in answers[0].bits if name != KEPT} | {
        n: {} for n in baselines
    }
    for (name, score), values in scored.items():
        means[name][score] = float(values.mean())
        if name != KEPT:
            gains[name][score] = clustered_mean(scored[KEPT, score] - values, documents(answers))

    columns = (BITS, *scores)
    lines = [
        (name, *(f"{of[c]:.3f}" if c in of else "" for c in columns)) for name, of in means.items()
    ]
    margins = [
        (
            f"against {name}",
            *(f"{of[c].value:+.4f} ± {of[c].error:.4f}" if c in of else "" for c in columns),
        )
        for name, of in gains.items()
    ]
    parts = [
        _verdicts(gains, baselines, judged=next(reversed(scores))),
        table(("", *columns), lines),
        f"What the {KEPT} gains (bits: saved), with the standard error over documents:",
        table(("", *columns), margins),
    ]
    return "\n\n".join(parts), {
        "questions": len(answers),
        "documents": len(np.unique(documents(answers))),
        "means": means,
        "gains": gains,
    }


def _verdicts(
    gains: Mapping[str, Mapping[str, Mean]], baselines: Iterable[str], judged: str
) -> str:
    unit, over = f"{BITS} of the reference saved", "documents"
    lines = [
        verdict(gains[EMPTIED][BITS], "Its memory", unit, over)
        if EMPTIED in gains
        else "This model has no memory.",
        verdict(gains[ALONE][BITS], "Reading the document", unit, over),
        *(
            contest(gains[name][judged], "What it writes", name, f"of {judged}", over)
            for name in baselines
        ),
    ]
    return "\n".join(f"- {line}" for line in lines)


def verdict(gain: Mean, what: str, unit: str, over: str) -> str:
    """Whether something helps. A difference counts from two standard errors on.

    Args:
        gain: positive is better.
        what: is said to help; begins a sentence.
        unit: of the gain.
        over: what the standard error is taken over, in the plural.
    """
    claims = (f"{what} helps", f"{what} does not help", f"{what} does not help measurably")
    return _judged(gain, claims, f"whether {what[0].lower()}{what[1:]} helps", unit, over)


def contest(gain: Mean, ours: str, other: str, unit: str, over: str) -> str:
    """The same of what is better than something else."""
    claims = tuple(
        f"{ours} is {how} {other}"
        for how in ("better than", "worse than", "not measurably better than")
    )
    return _judged(
        gain, claims, f"whether {ours[0].lower()}{ours[1:]} is better than {other}", unit, over
    )


def _judged(gain: Mean, claims: tuple[str, str, str], doubt: str, unit: str, over: str) -> str:
    if math.isnan(gain.error):
        return f"**It cannot be told from one of the {over} {doubt}:** {gain.value:+.4f} {unit}."
    size = f"{gain.value:+.4f} ± {gain.error:.4f} {unit} (standard error over {gain.units} {over})"
    few = f" Fewer than {MIN_DOCUMENTS} {over} are too few to trust that error." * (
        gain.units < MIN_DOCUMENTS
    )
    better, worse, neither = claims
    if gain.value > 2 * gain.error:
        return f"**{better}:** {size}.{few}"
    if gain.value < -2 * gain.error:
        return f"**{worse}:** {size}.{few}"
    return f"**{neither}:** {size} is within two standard errors of zero.{few}"


def plot_by_length(file: Path, title: str, answers: Sequence[Answer], chunk_len: int) -> None:
    """Bits a byte by length of the document in power-of-two bins, and what the document in memory
    saves.
    """
    bins = offset_bins(np.array([answer.tokens for answer in answers]))
    groups = [
        [a for a, at in zip(answers, bins, strict=True) if at == bin] for bin in np.unique(bins)
    ]
    places = np.array(
        [math.exp(np.mean([math.log(answer.tokens) for answer in group])) for group in groups]
    )
    styles = {
        condition: style for condition, style in STYLES.items() if condition in answers[0].bits
    }
    figure, (upper, lower) = plots.new_figure(title, panels=2)
    lower.axhline(0, color=plots.INK, linewidth=0.8)
    for condition, (style, colour) in styles.items():
        costs = [bits_per_byte(group, condition) for group in groups]
        upper.plot(
            places, costs, style, color=colour, markersize=4.5, linewidth=1.4, label=condition
        )
        if condition != KEPT:
            gains = [saved(group, condition) for group in groups]
            # so that no bar hides another
            beside = 1.02 if condition == ALONE else 1 / 1.02
            values, errors = (
                [gain.value for gain in gains],
                [2 * np.nan_to_num(gain.error) for gain in gains],
            )
            lower.errorbar(
                places * beside,
                values,
                errors,
                fmt=style[0],
                color=colour,
                markersize=4.5,
                elinewidth=1.2,
            )
    upper.set_ylabel("bits per byte\nof the reference")
    plots.legend(upper)
    lower.set_ylabel("saved against\neach")
    lower.set_xscale("log", base=2)
    ticks = 2.0 ** np.arange(
        math.floor(math.log2(min(places))), math.ceil(math.log2(max(places)) + 1e-9) + 1
    )
    lower.set_xticks(
        ticks, [f"{tick:.0f}" if tick < 1024 else f"{tick / 1024:.0f}k" for tick in ticks]
    )
    lower.minorticks_off()
    lower.set_xlabel(f"length of the document (tokens; a chunk has {chunk_len})")
    plots.save(figure, file)
