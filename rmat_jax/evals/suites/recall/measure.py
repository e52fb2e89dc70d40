"""Asks the cells of `recall`, longer contexts less often, and gives accuracies."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.packing import Document, Packed
from rmat_jax.evals.suite import Subject, say
from rmat_jax.evals.suites.recall.needles import Cell, Needles
from rmat_jax.train.heldout import evaluate_heldout

# the chunks of the shortest context, and how many times as long the next one is
SHORTEST, FACTOR = 4, 4
# the fewest documents of a cell
FEWEST = 8
# Contexts of up to so many tokens get `examples` documents. Longer ones get fewer, so that all
# cells cost the same.
SHORT = 1024
# Contexts of more tokens are asked only about their beginning, since they cost most.
FAR = 1 << 20


def contexts(most: int) -> list[int]:
    """Returns context lengths in chunks: SHORTEST, each next one FACTOR times as long, `most`."""
    found = [SHORTEST]
    while found[-1] < most:
        found.append(min(found[-1] * FACTOR, most))
    return found


def documents_of(cell: Cell, chunk_len: int, examples: int) -> int:
    """Returns the number of documents of a cell, at most `examples`."""
    return int(
        np.clip(examples * SHORT // (cell.chunks * chunk_len), min(FEWEST, examples), examples)
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """The results of n documents, one entry each.

    `kept` is with the memory, `cut` with the memory emptied just before the question.
    """

    cells: list[Cell]
    # [n] the number of answers
    asked: np.ndarray
    # [n] the number of right answers
    kept: np.ndarray
    cut: np.ndarray
    # [n] the bits that all answers cost
    kept_bits: np.ndarray
    cut_bits: np.ndarray

    def where(self, **wanted: float) -> np.ndarray:
        """Returns the mask of the documents whose cell has these values."""
        return np.array(
            [
                all(getattr(cell, name) == value for name, value in wanted.items())
                for cell in self.cells
            ]
        )

    def accuracy(self, which: np.ndarray, right: np.ndarray) -> Mean:
        """Returns the share of right answers.

        Answers of one document depend on each other, so documents are the units of the error.
        Without documents the share is NaN.

        Args:
            which: a mask of the documents.
            right: `kept` or `cut`.
        """
        asked, right = self.asked[which], right[which]
        # of each document's answers, those that are right first
        firsts = np.cumsum(asked) - asked
        values = np.arange(asked.sum()) - np.repeat(firsts, asked) < np.repeat(right, asked)
        return clustered_mean(values, np.repeat(np.arange(len(asked)), asked))

    def exact(self, which: np.ndarray, right: np.ndarray) -> Mean:
        """Returns the share of documents with no wrong answer."""
        values = (right == self.asked)[which]
        return clustered_mean(values, np.arange(len(values)))

    def gain(self, which: np.ndarray) -> Mean:
        """Returns what memory adds to the accuracy, paired document by document."""
        gains = ((self.kept - self.cut) / self.asked)[which]
        return clustered_mean(gains, np.arange(len(gains)))

    def saved(self, which: np.ndarray) -> Mean:
        """Returns the bits that memory saves on all answers of a document, with the same pairs."""
        saved = (self.cut_bits - self.kept_bits)[which]
        return clustered_mean(saved, np.arange(len(saved)))


def measure(subject: Subject, needles: Needles, cells: Sequence[Cell], seed: int) -> Found:
    """Makes a document for each cell, and asks for its facts, many documents side by side.

    Args:
        subject: the model.
        needles: the kind of documents.
        cells: the cell of each document.
        seed: the seed of the documents.
    """
    chunk_len = needles.chunk_len

    def make(index: int) -> Document:
        return needles.make(cells[index], np.random.default_rng((seed, index)))

    packed = Packed(
        [(cell.chunks + 2) * chunk_len for cell in cells], make, chunk_len, forgets=True
    )
    say(f"{len(cells):,} documents, {packed.tokens:,} tokens")
    heldout = evaluate_heldout(subject.config, subject.params, packed, None)
    owners = packed.owners(heldout)
    in_earnest = (
        heldout.offsets >= (np.array([cell.chunks for cell in cells])[owners] + 1) * chunk_len
    )
    count = functools.partial(np.bincount, minlength=len(cells))
    kept, cut = owners[in_earnest], owners[~in_earnest]
    return Found(
        cells=list(cells),
        asked=count(kept),
        kept=count(kept, heldout.correct[in_earnest]),
        cut=count(cut, heldout.correct[~in_earnest]),
        kept_bits=count(kept, heldout.bits[in_earnest]),
        cut_bits=count(cut, heldout.bits[~in_earnest]),
    )


def part(found: Found, which: slice) -> Found:
    """Returns the part of the documents that a slice names."""
    return Found(**{name: value[which] for name, value in vars(found).items()})
