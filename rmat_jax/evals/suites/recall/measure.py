"""The measurement of `recall`: how often the cells of the grid are asked, and what comes of it."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rmat_jax.evals.means import Mean, clustered_mean
from rmat_jax.evals.packing import Document, Packed
from rmat_jax.evals.suite import Subject, say
from rmat_jax.evals.suites.recall.needles import Cell, Needles
from rmat_jax.train.heldout import evaluate_heldout

# chunks of the shortest context, and how many times as long the next one is
SHORTEST, FACTOR = 4, 4
# documents of a cell, at least
FEWEST = 8
# Contexts of up to so many tokens get `examples` documents, longer ones fewer: cells cost alike.
SHORT = 1024
# Contexts of more tokens are asked about their beginning alone: they cost the most.
FAR = 1 << 20


def contexts(most: int) -> list[int]:
    """Returns context lengths in chunks: SHORTEST, FACTOR times as many again and again, `most`."""
    found = [SHORTEST]
    while found[-1] < most:
        found.append(min(found[-1] * FACTOR, most))
    return found


def documents_of(cell: Cell, chunk_len: int, examples: int) -> int:
    """Returns the number of documents of a cell, `examples` at most."""
    return int(
        np.clip(examples * SHORT // (cell.chunks * chunk_len), min(FEWEST, examples), examples)
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """What came of n documents: one entry each.

    `kept` is with the memory, `cut` with the memory emptied just before the question.
    """

    cells: list[Cell]
    # [n] answers
    asked: np.ndarray
    # [n] right answers
    kept: np.ndarray
    cut: np.ndarray
    # [n] bits that all answers cost
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

        Those of a document stand or fall together, so documents are the units of the error. Of no
        document it is NaN.

        Args:
            which: mask of the documents.
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
        """Returns the bits that memory saves on all answers of a document, paired likewise."""
        saved = (self.cut_bits - self.kept_bits)[which]
        return clustered_mean(saved, np.arange(len(saved)))


def measure(subject: Subject, needles: Needles, cells: Sequence[Cell], seed: int) -> Found:
    """Makes a document for each cell, asks for its facts, many documents side by side.

    Args:
        subject: the model.
        needles: the kind of documents.
        cells: one for each document.
        seed: of the documents.
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
