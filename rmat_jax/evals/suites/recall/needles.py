"""The documents of `recall`, which tell something once and ask for it at the end.

They have key-value pairs in noise, or pass keys in text. A document is its context, in whole
chunks, and the chunk that asks. That chunk stands there twice: first as an aside, which is read
with an emptied memory (the control) and leaves no trace, then in earnest. Only the answers are
scored.
"""

import dataclasses
import math
from typing import NamedTuple, Protocol

import numpy as np

from rmat_jax.config import IGNORE, Config
from rmat_jax.data.recall import DIGITS, NOISE, PassKey
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals.packing import Document
from rmat_jax.train.step import ASIDE, KEEP


class Cell(NamedTuple):
    """A cell of the grid: where a fact stands."""

    # the length of the context
    chunks: int
    # 0: the fact opens the context; 1: it ends the context, just before the question
    depth: float
    # the number of facts that are told and asked for
    facts: int
    # whether they were told once before, in the first chunk, with other values; the last ones count
    updated: bool = False


class Needles(Protocol):
    """A kind of documents."""

    chunk_len: int
    # the name of a fact in reports
    thing: str
    # the scored tokens of a fact
    answers: int
    # the number of values from which a guesser chooses each of them
    choices: int

    def make(self, cell: Cell, rng: np.random.Generator) -> Document:
        """Returns a document of `cell.chunks + 2` chunks."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Key-value pairs in the noise of `data/recall.py`.

    All pairs stand in one chunk, and updated ones in the first chunk too, with other values. The
    last chunk has the keys in another order.
    """

    config: Config
    thing = "value"
    answers = 1

    @property
    def chunk_len(self) -> int:
        return self.config.model.chunk_len

    @property
    def choices(self) -> int:
        return self.config.data.recall_symbols

    def make(self, cell: Cell, rng: np.random.Generator) -> Document:
        pairs, symbols, size = cell.facts, self.choices, self.chunk_len
        tokens = rng.integers(NOISE, size=(cell.chunks + 1) * size, dtype=np.int32)
        keys = NOISE + rng.permutation(symbols)[:pairs]
        values = NOISE + symbols + rng.integers(symbols, size=pairs)
        told = round(cell.depth * (cell.chunks - 1)) * size + 2 * rng.permutation(size // 2)[:pairs]
        if cell.updated:
            before = 2 * rng.permutation(size // 2)[:pairs]
            # any other value
            shift = 1 + rng.integers(max(symbols - 1, 1), size=pairs)
            stale = NOISE + symbols + (values - NOISE - symbols + shift) % symbols
            tokens[before], tokens[before + 1] = keys, stale
        tokens[told], tokens[told + 1] = keys, values
        order, asked = rng.permutation(pairs), cell.chunks * size + 2 * np.arange(pairs)
        tokens[asked], tokens[asked + 1] = keys[order], values[order]
        targets = np.full_like(tokens, IGNORE)
        targets[asked] = values[order]
        return asked_twice(tokens, targets, size)


class PassKeys:
    """A sentence with a number, somewhere in a text, as in `data/recall.py`.

    The question is the beginning of that sentence.
    """

    thing = "pass key"
    answers = DIGITS
    choices = 10

    def __init__(self, haystack: np.ndarray, tokenizer: Tokenizer, chunk_len: int):
        """Takes the arguments of `PassKey`, and raises UserError as it does."""
        self.chunk_len = chunk_len
        self._writer = PassKey(haystack, tokenizer, chunk_len)

    def make(self, cell: Cell, rng: np.random.Generator) -> Document:
        context = cell.chunks * self.chunk_len
        # the places for the sentence after the first token, which opens the document
        room = context - self._writer.sentence_len
        # any place in a chunk, since gates may know more in its middle than at its border
        spread = min(self.chunk_len, room)
        told = 1 + math.floor(cell.depth * (room - spread)) + rng.integers(spread)
        return asked_twice(*self._writer.document(rng, cell.chunks, context - told), self.chunk_len)


def asked_twice(tokens: np.ndarray, targets: np.ndarray, chunk_len: int) -> Document:
    """Returns the document with its last chunk doubled, the first of the two as an aside."""
    forget = np.full(len(tokens) // chunk_len + 1, KEEP, np.int32)
    forget[-2] = ASIDE
    tokens, targets = (np.concatenate([x, x[-chunk_len:]]) for x in (tokens, targets))
    return {"tokens": tokens.astype(np.int32), "targets": targets, "forget": forget}
