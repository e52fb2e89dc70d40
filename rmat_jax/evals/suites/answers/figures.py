"""The figure of `qa` and `summary`: the costs of references by length of the document."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmat_jax.colours import INK
from rmat_jax.drawing import legend, save, token_axis
from rmat_jax.evals import plots
from rmat_jax.evals.conditions import ALONE, KEPT, OF_QUESTIONS, Condition
from rmat_jax.evals.suites.answers.ask import Answer
from rmat_jax.evals.suites.answers.compare import bits_per_byte, saved
from rmat_jax.train.heldout import offset_bins


def by_length(file: Path, title: str, answers: Sequence[Answer], chunk_len: int) -> None:
    """Draws bits per byte by length of the document, and what the document in memory saves.

    Lengths are grouped in power-of-two bins.

    Args:
        file: the file to write.
        title: the title of the figure.
        answers: one answer or more.
        chunk_len: the model's chunk length, in tokens.
    """
    bins = offset_bins(np.array([answer.tokens for answer in answers]))
    groups = [
        [a for a, at in zip(answers, bins, strict=True) if at == bin] for bin in np.unique(bins)
    ]
    places = np.array(
        [math.exp(np.mean([math.log(answer.tokens) for answer in group])) for group in groups]
    )
    figure, (upper, lower) = plots.new_figure(title, panels=2)
    lower.axhline(0, color=INK, linewidth=0.8)
    for condition in (of for of in reversed(Condition) if of in answers[0].bits):
        upper.plot(
            places,
            [bits_per_byte(group, condition) for group in groups],
            condition.style,
            color=condition.colour,
            markersize=4.5,
            linewidth=1.4,
            label=OF_QUESTIONS[condition],
        )
        if condition != KEPT:
            # so that no bar hides another
            beside = 1.02 if condition == ALONE else 1 / 1.02
            plots.with_errors(
                lower,
                places * beside,
                [saved(group, condition) for group in groups],
                condition.marker,
                condition.colour,
                markersize=4.5,
                elinewidth=1.2,
            )
    upper.set_ylabel("bits per byte\nof the reference")
    legend(upper)
    lower.set_ylabel("saved against\neach")
    token_axis(lower, places)
    lower.set_xlabel(f"length of the document (tokens; a chunk has {chunk_len})")
    save(figure, file)
