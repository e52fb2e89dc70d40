"""Turns documents into batches. A lane is one row of the batch, an endless stream of documents.

A batch is a dict of int32 arrays [rows, T]:

    tokens     what the model reads
    targets    the token to predict at each place; IGNORE where none is asked for
    documents  which document of its lane a token belongs to, a number that grows modulo 2^31;
               neighbours always differ
    offsets    the token's place in its document, counted from 0

Every kind of lanes is a sequence `lanes[step] -> batch`. It has no state but the step, so a run
resumes anywhere at once. `rows` picks the rows that this process reads; the global batch does not
depend on which process reads which rows.
"""

import dataclasses
import functools
import heapq
import sys
from collections.abc import Sequence

import numpy as np

from rmat_jax.data.corpus import Corpus
from rmat_jax.errors import UserError

LAST_ID = 2**31 - 1
FIELDS = ("tokens", "targets", "documents", "offsets")

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts of a corpus laid end to end: tokens[starts[0] : starts[0] + lengths[0]], then more."""

    starts: np.ndarray
    lengths: np.ndarray

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Where each part ends in the stream."""
        return np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: np.ndarray | slice) -> "Parts":
        return Parts(self.starts[index], self.lengths[index])

    @classmethod
    def joined(cls, several: "Sequence[Parts]") -> "Parts":
        """Joins streams, one after the other."""
        return cls(
            *(np.concatenate([getattr(p, n) for p in several]) for n in ("starts", "lengths"))
        )

    def between(self, position: int, count: int) -> "Parts":
        """The parts of `count` tokens from `position` on; the first and the last may be cut."""
        first, last = np.searchsorted(self.ends, (position, position + count - 1), side="right")
        found = self[first : last + 1]
        ends = np.minimum(self.ends[first : last + 1], position + count)
        begins = np.maximum(self.ends[first : last + 1] - found.lengths, position)
        starts = found.starts + found.lengths - (self.ends[first : last + 1] - begins)
        return Parts(starts, ends - begins)

    def places(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds `count` places of the stream from `position` on. The stream must hold so many.

        Returns:
            [count] each: the places in the corpus, the index of each place's part, and the offsets
            in the parts.
        """
        first, last = np.searchsorted(self.ends, (position, position + count - 1), side="right")
        spanned = self[first : last + 1]
        ends = self.ends[first : last + 1]
        begins = ends - spanned.lengths
        counts = np.minimum(ends, position + count) - np.maximum(begins, position)
        offsets = np.arange(position, position + count) - np.repeat(begins, counts)
        places = np.repeat(spanned.starts, counts) + offsets
        return places, np.repeat(np.arange(first, last + 1), counts), offsets

    def read(self, corpus: Corpus, position: int, count: int) -> Batch:
        """A row of a batch, [count] each, from `position` on. The stream must hold so many tokens.

        The target of a part's last token is what follows it in the corpus, not in the stream, which
        is right also where a document was cut.
        """
        places, documents, offsets = self.places(position, count)
        return corpus.read(places) | {"documents": documents, "offsets": offsets}


class Passes:
    """The parts of a corpus in endless passes. Each lane has parts of its own, and reads them in a
    new order every pass.

    A document longer than a lane's fair share of the corpus is cut into parts of at most that size,
    so that a corpus of one document feeds every lane with another part of it; a part counts as a
    document of its own. Parts are dealt once, so that lanes are about equally long. Each lane sees
    all of its parts in each pass.

    Args:
        corpus: the corpus to read.
        batch_size: B, the number of lanes of the global batch.
        seed: the seed of the dealing and of the order in every lane and pass.
        rows: the lanes to make.
    """

    def __init__(
        self, corpus: Corpus, batch_size: int, seed: int | tuple[int, ...], rows: Sequence[int]
    ):
        self._seed = seed if isinstance(seed, tuple) else (seed,)
        parts, _ = cut(corpus, -(-corpus.num_tokens // batch_size))
        lanes = deal(parts.lengths, batch_size, seed)
        # tokens of the shortest lane
        self.shortest = int(min(parts.lengths[mine].sum() for mine in lanes))
        self._lanes = {row: parts[lanes[row]] for row in rows}
        # Two passes of each lane, since a batch may lie across their border.
        self.shuffled = functools.lru_cache(2 * len(rows))(self._shuffle)

    def length(self, row: int) -> int:
        """The number of tokens in one pass of a lane."""
        return int(self._lanes[row].ends[-1])

    def between(self, row: int, position: int, count: int) -> Parts:
        """A lane's parts from a place on, over all passes; the first and the last may be cut."""
        found = []
        while count:
            epoch, begin = divmod(position, self.length(row))
            here = min(count, self.length(row) - begin)
            found.append(self.shuffled(row, epoch).between(begin, here))
            position, count = position + here, count - here
        return Parts.joined(found)

    def _shuffle(self, row: int, epoch: int) -> Parts:
        parts = self._lanes[row]
        return parts[np.random.default_rng((*self._seed, row, epoch)).permutation(len(parts))]


class Lanes:
    """Training batches: each lane reads its documents in a new order every pass, for ever.

    Args:
        corpus: the corpus to read.
        batch_size: B, the number of lanes of the global batch.
        length: T, the number of tokens of each lane in a batch.
        seed: the seed of the dealing and of the order in every lane and pass.
        rows: the lanes that this process reads; all by default.

    Raises:
        UserError: a lane would hold T tokens or fewer.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        length: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ):
        self.rows = range(batch_size) if rows is None else rows
        self.length = length
        self._corpus = corpus
        self._passes = Passes(corpus, batch_size, seed, self.rows)
        if self._passes.shortest <= length:
            raise UserError(
                f"the corpus has {corpus.num_tokens} tokens, its shortest lane "
                f"{self._passes.shortest}: too few for batch_size={batch_size} lanes that read "
                f"{length} tokens a step; lower batch_size or chunks_per_step"
            )

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        batch = {name: np.empty((len(self.rows), self.length), np.int32) for name in FIELDS}
        for index, row in enumerate(self.rows):
            filled, pass_len = 0, self._passes.length(row)
            while filled < self.length:
                epoch, position = divmod(step * self.length + filled, pass_len)
                parts = self._passes.shuffled(row, epoch)
                count = min(self.length - filled, pass_len - position)
                piece = parts.read(self._corpus, position, count)
                piece["documents"] = (piece["documents"] + epoch * len(parts)) & LAST_ID
                for name, values in piece.items():
                    batch[name][index, filled : filled + count] = values
                filled += count
        return batch


def cut(corpus: Corpus, limit: int) -> tuple[Parts, np.ndarray]:
    """Cuts the corpus' documents into parts of `limit` tokens, the last of each as long as is left.

    Returns:
        The parts, and the number of each part within its document, from 0.
    """
    lengths = np.diff(corpus.starts)
    counts = -(-lengths // limit)
    document = np.repeat(np.arange(len(lengths)), counts)
    ordinal = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = ordinal * limit
    return Parts(
        corpus.starts[document] + begins, np.minimum(lengths[document] - begins, limit)
    ), ordinal


def deal(lengths: np.ndarray, num_lanes: int, seed: int | tuple[int, ...]) -> list[np.ndarray]:
    """Deals parts to lanes, the longest first, each to the lane with the fewest tokens so far.

    Args:
        lengths: the lengths of the parts.
        num_lanes: the number of lanes.
        seed: breaks ties.

    Returns:
        The indices of each lane's parts.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    # a heap
    owners, loads = [], [(0, lane) for lane in range(num_lanes)]
    for length in lengths[order].tolist():
        load, lane = loads[0]
        owners.append(lane)
        heapq.heapreplace(loads, (load + length, lane))
    owners = np.array(owners)
    by_lane = np.argsort(owners, kind="stable")
    return np.split(order[by_lane], np.searchsorted(owners[by_lane], np.arange(1, num_lanes)))
