"""The interface of the suites: each takes a trained model and options, and returns a section.

A suite is a module with a function of its name, which takes a Subject, Options and a folder for
its figures and returns a Section. It may have a function `check(subject, options)`, which raises
UserError for everything that can be checked at once.
"""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rmat_jax import progress
from rmat_jax.config import Config, from_saved
from rmat_jax.data import Data, make_data
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import load_tokenizer
from rmat_jax.digests import check_finite
from rmat_jax.evals.options import Options as Options
from rmat_jax.infer import Engine
from rmat_jax.model import RMAT
from rmat_jax.train.checkpoint import restore_params
from rmat_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained model and its data."""

    workdir: Path
    config: Config
    params: PyTree
    # the number of optimiser steps that made the parameters
    step: int
    # the identity of its training data; None: its weights were imported
    trained_on: str | None = None

    @property
    def model(self) -> RMAT:
        return RMAT(self.config.model)

    @functools.cached_property
    def data(self) -> Data:
        """The data that the model was trained on.

        Raises:
            UserError: it is gone, or has changed, so that held-out text may have been trained on.
        """
        data = make_data(self.config, self.workdir)
        data.check_same(self.trained_on, self.workdir)
        return data

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run.

        Raises:
            UserError: the model is one of synthetic data, which knows no text.
        """
        return load_tokenizer(self.config, self.workdir / "tokenizer", self.trained_on)

    def engine(self, rows: int = 8) -> Engine:
        """Returns an engine that reads so many sessions side by side."""
        return Engine(self.model, self.params, self.tokenizer, rows=rows, prompts=rows)


def load_subject(workdir: Path, step: int | str | None = None) -> Subject:
    """Loads a checkpoint of a run: that of a step, the newest, or the "best".

    Raises:
        UserError: there is no such checkpoint, or its weights hold NaN or infinity.
    """
    workdir = Path(workdir)
    found = restore_params(workdir / "checkpoints", step)
    check_finite(found.params, f"step {found.step} of {workdir}")
    config = from_saved(Config, found.config, str(workdir))
    return Subject(workdir, config, found.params, found.step, found.meta.get("data"))


@dataclasses.dataclass(frozen=True)
class Section:
    """The findings of a suite, for people and for programs."""

    title: str
    # one sentence with the numbers that matter, for the top of the report
    headline: str
    # Markdown without the title; figures have their names beside the report
    text: str
    # every number, ready for JSON; NaN where nothing was measured
    values: dict[str, Any]


def figure(title: str, file: str) -> str:
    """Returns markdown for a figure that lies beside the report."""
    return f"![{title}]({file})"


def table(head: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """Returns a markdown table. Bars in its cells are escaped."""
    head = tuple(head)
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    )


def say(text: str) -> None:
    """Prints a line of progress on stderr."""
    progress.say(f"report: {text}")
