"""The section of `ruler`: scores by task and length, the verdicts, and every answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmat_jax.drawing import count_name
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import ALONE, EMPTIED, KEPT, OF_QUESTIONS, contest, verdict
from rmat_jax.evals.inputs import read_texts, source_name
from rmat_jax.evals.suite import Options, Section, Subject, figure, table
from rmat_jax.evals.suites.answers.ask import ask
from rmat_jax.evals.suites.answers.compare import BITS, saved
from rmat_jax.evals.suites.answers.questions import Asked, Item
from rmat_jax.evals.suites.ruler.score import (
    GUESS,
    OTHER,
    Scored,
    lead,
    luck,
    mean,
    record,
    scored,
)
from rmat_jax.evals.suites.ruler.stock import Stock, room
from rmat_jax.evals.suites.ruler.tasks import FEWEST, SHORTEST, lengths, made, read

# the most tokens of a document of the haystack
TEXT_TOKENS = 1 << 16
FILE = "ruler.png"


def check(subject: Subject, options: Options) -> None:
    """Raises UserError if something is wrong with RULER's files, the lengths or the haystack."""
    if options.ruler is None:
        stock(subject, options)
    else:
        read(options.ruler, options)


def stock(subject: Subject, options: Options) -> Stock:
    """Returns the material of the prompts.

    Raises:
        UserError: lengths are below SHORTEST, there is no text, or it has too few words.
    """
    lengths(options)
    texts = read_texts(subject, options, TEXT_TOKENS)
    return Stock(map(subject.tokenizer.decode, texts), subject.tokenizer)


def ruler(subject: Subject, options: Options, out: Path) -> Section:
    """Asks every sample under all conditions. Returns the section; its figure is in `out`.

    Raises:
        UserError: as `check` does, or the model's probabilities are not finite.
    """
    if options.ruler is None:
        samples, how = list(made(stock(subject, options), options)), made_of(options)
    else:
        samples, how = read(options.ruler, options), READ.format(options.ruler)
    items = [Item((one.context,), (Asked(one.question, (one.answer,)),)) for one in samples]
    answers = ask(
        subject,
        items,
        prompt=lambda asked: f"\n{asked.question}",
        room=lambda asked: room(subject.tokenizer, asked.references[0]),
        name="ruler",
    )
    return describe(scored(samples, answers), bool(subject.config.model.memory), how, out)


READ = (
    "The prompts are those of `{}`, as published; the last line of each is its question. Lengths "
    "are those of the files; this model's tokenizer may count differently."
)
METHOD = (
    "A score is the share of the wanted texts that stand somewhere in the answer, in upper or "
    "lower case (for RULER's questions on documents: whether one of them does). The answer is "
    "greedy and takes at most twice the tokens of the right one. *{other}*: the right answer to "
    "the next example of the task. *{guess}*: as many things of the context as are wanted, drawn "
    "at random among all of their kind; a dash says that it is not known. Errors are taken over "
    "examples. Emptying the memory leaves the open chunk, and a sliding window, as they are; the "
    "question is read after it."
)


def made_of(options: Options) -> str:
    """Says how the prompts were made."""
    return (
        f"Prompts of {SHORTEST:,} to {options.max_tokens:,} tokens, answer included, were made "
        f"by RULER's recipe in words of our own, with {source_name(options)} as the essay; longer "
        f"ones have proportionately fewer examples, {FEWEST} at least. A dash stands where a task "
        "does not fit into a length."
    )


def describe(found: Sequence[Scored], has_memory: bool, how: str, out: Path) -> Section:
    """Makes the section of the measurements, and writes its figure to `out`.

    Args:
        found: one scored sample or more.
        has_memory: whether the model has a memory.
        how: says where the prompts come from.
        out: the folder of the figure.
    """
    tasks = list(dict.fromkeys(one.sample.task for one in found))
    sizes = sorted({one.sample.length for one in found})
    rows = {task: [one for one in found if one.sample.task == task] for task in tasks}
    rows["all"] = list(found)
    cells = {
        name: {size: [one for one in of if one.sample.length == size] for size in sizes}
        for name, of in rows.items()
    }
    emptied = [mean(of, EMPTIED).value for of in cells["all"].values()] if has_memory else None
    plots.heat_map(
        Path(out, FILE),
        f"RULER's score, {OF_QUESTIONS[KEPT]}",
        {name: [mean(of, KEPT).value for of in row.values()] for name, row in cells.items()},
        [count_name(size) for size in sizes],
        "length of prompt and answer (tokens)",
        below={"all, memory\nemptied": emptied} if emptied else {},
        quantity="score",
    )
    brackets = ", in brackets with the memory emptied" * has_memory
    text = "\n\n".join(
        [
            verdicts(cells["all"], has_memory),
            figure("Score by task and length", FILE),
            f"Scores by length in tokens{brackets}:",
            score_table(cells, rows, has_memory),
            f"{how} {METHOD.format(other=OTHER, guess=GUESS)}",
        ]
    )
    values = {
        "rows": {
            name: numbers(rows[name], has_memory)
            | {"lengths": {size: numbers(of, has_memory) for size, of in row.items() if of}}
            for name, row in cells.items()
        },
        "answers": [record(one) for one in found],
    }
    return Section("RULER", headline(rows["all"], sizes, has_memory), text, values)


def headline(found: Sequence[Scored], sizes: Sequence[int], has_memory: bool) -> str:
    """Returns one sentence with the scores of all tasks together."""
    emptied = ""
    if has_memory:
        emptied = f", {mean(found, EMPTIED).value:.3f} with {OF_QUESTIONS[EMPTIED]}"
    other = luck(found, "other")
    span = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    lucky = "" if np.isnan(other) else f"; {OTHER} scores {other:.3f}"
    return (
        f"RULER's score is {mean(found, KEPT).value:.3f} over prompts of {span} tokens with "
        f"{OF_QUESTIONS[KEPT]}{emptied}{lucky}."
    )


def verdicts(by_length: dict[int, list[Scored]], has_memory: bool) -> str:
    """Says what the numbers of all tasks together show, a line each."""
    found = [one for of in by_length.values() for one in of]
    ahead = lead(found, KEPT)
    lines = []
    if ahead.units:
        lines.append(contest(ahead, "Its text", OTHER, "of score", "examples"))
    if has_memory:
        answers = [one.answer for one in found]
        lines = [
            verdict(mean(found, KEPT, EMPTIED), "Its memory", "of score", "examples"),
            reach(by_length),
            verdict(
                saved(answers, EMPTIED), "Its memory", f"{BITS} of the answer saved", "examples"
            ),
            *lines,
        ]
    else:
        lines.append("This model has no memory.")
    return "\n".join(f"- {line}" for line in lines)


def reach(by_length: dict[int, list[Scored]]) -> str:
    """Says up to which length the memory helps at every length, by two standard errors."""
    helped = None
    for size, of in by_length.items():
        if not mean(of, KEPT, EMPTIED).positive:
            break
        helped = size
    if helped is None:
        return f"Already at {min(by_length):,} tokens its memory does not help measurably."
    return (
        f"Its memory helps, by more than two standard errors, up to prompts of {helped:,} tokens."
    )


def numbers(of: Sequence[Scored], has_memory: bool) -> dict[str, Any]:
    """Returns every number of some samples for `report.json`."""
    ways = [KEPT, *[EMPTIED] * has_memory, ALONE]
    others = [condition for condition in ways if condition != KEPT]
    return {
        "examples": len(of),
        "scores": {OF_QUESTIONS[way]: mean(of, way) for way in ways},
        "gains": {OF_QUESTIONS[way]: mean(of, KEPT, way) for way in others},
        OTHER: luck(of, "other"),
        GUESS: luck(of, "guess"),
    }


def score_table(
    cells: dict[str, dict[int, list[Scored]]], rows: dict[str, list[Scored]], has_memory: bool
) -> str:
    """Returns a markdown table with a line for each task, and one for all of them."""

    def cell(of: Sequence[Scored]) -> str:
        if not of:
            return "\N{EN DASH}"
        brackets = f" ({mean(of, EMPTIED).value:.2f})" if has_memory else ""
        return f"{mean(of, KEPT):.2f}{brackets}"

    def plain(value: float) -> str:
        return "\N{EN DASH}" if np.isnan(value) else f"{value:.2f}"

    lines = [
        (
            name,
            len(rows[name]),
            *map(cell, row.values()),
            f"{mean(rows[name], ALONE).value:.2f}",
            plain(luck(rows[name], "other")),
            plain(luck(rows[name], "guess")),
        )
        for name, row in cells.items()
    ]
    columns = [f"{size:,}" for size in cells["all"]]
    return table(("task", "examples", *columns, OF_QUESTIONS[ALONE], OTHER, GUESS), lines)
