"""Makes the table and the figures of a comparison from the results of its runs."""

import json
import math
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from rmat_jax.ablate.runs import Run
from rmat_jax.ablate.variants import BASE, Variant
from rmat_jax.colours import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, VERMILLION
from rmat_jax.config import Config
from rmat_jax.drawing import legend, save, token_axis
from rmat_jax.evals import plots
from rmat_jax.evals.suite import figure, table
from rmat_jax.files import write_whole
from rmat_jax.machine import hardware

# the curves of the variants; blue is the base's
COLOURS, LINES = (VERMILLION, GREEN, ORANGE, PURPLE, GREY, INK), ("-", "--", ":", "-.")
# a bin of positions with fewer tokens is not drawn
MIN_TOKENS = 50


class Row(NamedTuple):
    """One variant over its seeds."""

    variant: Variant
    # the results of the finished runs
    results: list[dict[str, Any]]
    # these results with the base's result of the same seed
    pairs: list[tuple[dict[str, Any], dict[str, Any]]]
    # the errors of the runs that failed
    errors: list[str]
    # the number of runs that are not finished yet
    missing: int

    @property
    def scores(self) -> np.ndarray:
        return np.array([result["score"] for result in self.results])

    @property
    def differences(self) -> np.ndarray:
        return np.array([result["score"] - base["score"] for result, base in self.pairs])

    def mean(self, name: str) -> float:
        """The mean of a number over the results; NaN where no result has it."""
        values = [result[name] for result in self.results if result[name] is not None]
        return float(np.mean(values)) if values else math.nan


def write_report(
    out: Path, config: Config, variants: Sequence[Variant], runs: Sequence[Run], command: str
) -> None:
    """Writes report.md, results.json and, if there is something to draw, variants.png and
    document.png.
    """
    found = {(run.name, run.seed): run.result() for run in runs}
    finished = {key: result for key, result in found.items() if result is not None}
    write_whole(out / "results.json", json.dumps(list(finished.values()), indent=1) + "\n")
    scored = {key: result for key, result in finished.items() if not result["error"]}
    rows = [_row(variant, found, scored) for variant in variants]
    unit = next(iter(scored.values()))["unit"] if scored else "bits per byte"
    parts = [
        f"# Comparison of {len(variants)} models",
        f"Score: held-out {unit}, {'higher' if unit == 'accuracy' else 'lower'} is better; mean ± "
        "standard deviation over "
        f"seeds (of parameters and of the order of documents). Difference: to {BASE!r} with the "
        "same seed, mean ± standard "
        f"error{_counts_from(rows)}. "
        f"{_tokens_read(scored.values())}{_changed_text(scored.values())}"
        if scored
        else "No run is finished yet.",
        _table(rows),
    ]
    if any(len(row.scores) for row in rows):
        _draw_variants(out / "variants.png", rows, unit)
        parts.append(figure("Score of each variant", "variants.png"))
        if unit != "accuracy" and _draw_offsets(
            out / "document.png", [row for row in rows[1:] if row.pairs]
        ):
            parts.append(figure("Loss by position in the document", "document.png"))
            parts.append(
                f"Left out: position 0, and positions with fewer than {MIN_TOKENS} tokens."
            )
    hours = sum(result["seconds"] for result in scored.values()) / 3600
    parts.append(
        f"{len(scored)} of {len(runs)} runs, {hours:.1f} hours of training in sum; {hardware()}, "
        f"jax {jax.__version__}, Python "
        f"{platform.python_version()}."
    )
    if command:
        parts.append(f"```sh\n{command}\n```")
    write_whole(out / "report.md", "\n\n".join(parts) + "\n")


def _row(variant: Variant, found: dict, scored: dict) -> Row:
    seeds = [seed for name, seed in found if name == variant.name]
    mine = {seed: scored[variant.name, seed] for seed in seeds if (variant.name, seed) in scored}
    pairs = [
        (result, scored[BASE, seed]) for seed, result in mine.items() if (BASE, seed) in scored
    ]
    failed = [
        r["error"] for seed in seeds if (r := found[variant.name, seed]) is not None and r["error"]
    ]
    missing = sum(found[variant.name, seed] is None for seed in seeds)
    return Row(variant, list(mine.values()), pairs, failed, missing)


def _table(rows: Sequence[Row]) -> str:
    head = (
        "variant",
        "changes",
        "score",
        "difference",
        "perplexity a token",
        "memory emptied",
        "parameters",
        "tokens/s",
        "state bytes",
        "seeds",
    )
    lines = []
    for row in rows:
        note = "".join(f"; failed: {error}" for error in row.errors) + (
            f"; {row.missing} to come" if row.missing else ""
        )
        if not len(row.scores):
            lines.append((row.variant.name, str(row.variant), *("",) * 7, f"0{note}"))
            continue
        emptied = row.mean("score_without_memory")
        lines.append(
            (
                row.variant.name,
                str(row.variant),
                _spread(row.scores, row.scores.std(ddof=1) if len(row.scores) > 1 else math.nan),
                ""
                if row.variant.name == BASE or not len(row.differences)
                else _spread(row.differences, error(row.differences), "+"),
                f"{2 ** row.mean('bits_per_token'):,.2f}",
                "" if math.isnan(emptied) else f"{emptied:.4f}",
                f"{row.mean('parameters'):,.0f}",
                f"{row.mean('tokens_per_second'):,.0f}",
                f"{row.mean('state_bytes'):,.0f}",
                f"{len(row.scores)}{note}",
            )
        )
    return table(head, lines)


def error(values: np.ndarray) -> float:
    """The standard error of the mean; NaN for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _counts_from(rows: Sequence[Row]) -> str:
    """Says from how many standard errors on a difference is significant at 95 %, by Student's t. If
    rows have different numbers of seeds, the fewest count.
    """
    seeds = min(
        (len(row.pairs) for row in rows if len(row.pairs) > 1 and row.variant.name != BASE),
        default=0,
    )
    return (
        f"; with {seeds} seeds it is significant from {stats.t.ppf(0.975, seeds - 1):.1f} of these "
        "on"
        if seeds
        else ""
    )


def _tokens_read(results: Iterable[dict[str, Any]]) -> str:
    fewest, most = (of(result["tokens"] for result in results) for of in (min, max))
    return (
        f"Each run read {most:,} tokens."
        if fewest == most
        else f"**Runs read {fewest:,} to {most:,} tokens**, not all the same number."
    )


def _changed_text(results: Iterable[dict[str, Any]]) -> str:
    """A warning where runs with the same settings read different texts, as after an edit of a file
    between two commands.
    """
    found: dict[str, set[str]] = {}
    for result in results:
        # an earlier version wrote this result
        if "data" not in result:
            continue
        config = result["config"]
        settings = json.dumps([config["data"] | {"seed": None}, config["model"]["vocab_size"]])
        found.setdefault(settings, set()).add(result["data"])
    changed = [" | ".join(sorted(texts)) for texts in found.values() if len(texts) > 1]
    return (
        f" **The text was changed between runs, so they do not compare**: {'; '.join(changed)}."
        if changed
        else ""
    )


def _spread(values: np.ndarray, spread: float, sign: str = "") -> str:
    return f"{values.mean():{sign}.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")


def _draw_variants(file: Path, rows: Sequence[Row], unit: str) -> None:
    """Draws every seed as a dot, the mean as a bar, and the base as a line across all."""
    rows = [row for row in rows if len(row.scores)]
    drawn, axes = plots.new_figure("Score of each variant", height=plots.bars_height(len(rows)))
    for place, row in enumerate(rows):
        colour = BLUE if row.variant.name == BASE else INK
        axes.plot(
            row.scores, np.full(len(row.scores), place), "o", color=colour, markersize=4, alpha=0.6
        )
        axes.plot([row.scores.mean()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
    if rows[0].variant.name == BASE:
        axes.axvline(rows[0].scores.mean(), color=BLUE, linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.variant.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(
        f"held-out {unit} ({'higher' if unit == 'accuracy' else 'lower'} is better); dots: seeds, "
        "bars: means"
    )
    save(drawn, file)


def _draw_offsets(file: Path, others: Sequence[Row]) -> bool:
    """Draws bits per token by position in the document, less the base's. The curves themselves lie
    on top of each other.

    Returns:
        Whether there was anything to draw.
    """
    curves = [_by_offset(row.pairs) for row in others]
    if not any(len(places) for places, _ in curves):
        return False
    drawn, axes = plots.new_figure("Loss by position in the document, less the base's", height=4.2)
    for index, (row, (places, difference)) in enumerate(zip(others, curves, strict=True)):
        axes.plot(
            places,
            difference,
            LINES[index // len(COLOURS) % len(LINES)],
            color=COLOURS[index % len(COLOURS)],
            marker="o",
            markersize=3,
            linewidth=1.3,
            label=row.variant.name,
        )
    axes.axhline(0, color=BLUE, linewidth=1.2, label=BASE)
    token_axis(axes, np.unique(np.concatenate([places for places, _ in curves])))
    axes.set(xlabel="position in the document (tokens)", ylabel="bits per token, less the base's")
    legend(axes)
    save(drawn, file)
    return True


def _by_offset(pairs: Sequence[tuple[dict, dict]]) -> tuple[np.ndarray, np.ndarray]:
    """The middles of the bins in which all runs have enough tokens, and the mean difference over
    seeds in each.
    """
    bins = min(len(result["offsets"]["bits"]) for pair in pairs for result in pair)
    edges = np.array(pairs[0][0]["offsets"]["edges"][: bins + 1])
    bits, tokens = (
        np.array([[result["offsets"][name][:bins] for result in pair] for pair in pairs])
        for name in ("bits", "tokens")
    )
    # a log axis has no place for 0
    shown = (tokens.min((0, 1)) >= MIN_TOKENS) & (edges[:-1] > 0)
    return np.sqrt(edges[:-1] * (edges[1:] - 1.0))[shown], (bits[:, 0] - bits[:, 1]).mean(0)[shown]
