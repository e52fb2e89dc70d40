"""Packs documents of different lengths side by side into batches for `evaluate_heldout`."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.data.lanes import Batch, deal
from rmat_jax.evals.suite import say
from rmat_jax.progress import Progress
from rmat_jax.train.heldout import Heldout
from rmat_jax.train.step import KEEP

# the most documents side by side
ROWS = 32
# the most tokens of each row in a batch, or 4 chunks where that is more
LENGTH = 4096
# seconds between two lines of progress
PATIENCE = 10.0

# tokens and targets [T], and perhaps `forget` [T / C], see `train.step.eval_step`
Document = Mapping[str, np.ndarray]


class Packed:
    """Batches in which each document stands whole in one row and begins at a chunk's border.

    The model carries nothing into a document. A document is made when its turn comes.

    Args:
        lengths: the numbers of tokens of the documents, multiples of the chunk.
        make: makes the document of an index.
        chunk_len: the model's chunk length, in tokens.
        forgets: whether documents have `forget`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        make: Callable[[int], Document],
        chunk_len: int,
        *,
        forgets: bool,
    ):
        self._lengths, self._make = np.asarray(lengths), make
        self._chunk_len, self._forgets = chunk_len, forgets
        rows = int(np.clip(self._lengths.sum() // self._lengths.max(), 1, min(ROWS, len(lengths))))
        self._lanes = deal(self._lengths, rows, seed=0)
        longest = max(int(self._lengths[lane].sum()) for lane in self._lanes)
        self._steps = -(-longest // (max(LENGTH // chunk_len, 4) * chunk_len))
        self.length = -(-longest // (self._steps * chunk_len)) * chunk_len

    @property
    def tokens(self) -> int:
        """The tokens of all batches, padding included."""
        return self._steps * self.length * len(self._lanes)

    def __iter__(self) -> Iterator[Batch]:
        rows = [self._pieces(lane) for lane in self._lanes]
        progress = Progress(PATIENCE)
        for step in range(self._steps):
            pieces = [next(row) for row in rows]
            batch = {name: np.stack([piece[name] for piece in pieces]) for name in pieces[0]}
            if self._forgets and (batch["forget"] == KEEP).all():
                # with `forget` the batch would be read chunk after chunk
                del batch["forget"]
            yield batch
            if progress.due():
                left = progress.seconds * (self._steps - step - 1) / (step + 1)
                read = (step + 1) * self.tokens // self._steps
                say(f"{read:,} of {self.tokens:,} tokens, {left:.0f} s left")

    def owners(self, heldout: Heldout) -> np.ndarray:
        """Returns the index of each scored token's document.

        Args:
            heldout: the result of `evaluate_heldout` for these batches.
        """
        places, lanes = np.divmod(heldout.documents, len(self._lanes))
        begins = np.cumsum([0, *map(len, self._lanes)])[:-1]
        return np.concatenate(self._lanes)[begins[lanes] + places - 1]

    def _pieces(self, lane: np.ndarray) -> Iterator[Batch]:
        """Yields a row of one batch after the other, [T] each, and then padding without end."""
        piece, filled = self._padding(len(lane)), 0
        for place, index in enumerate(lane):
            document, length, read = self._make(index), int(self._lengths[index]), 0
            while read < length:
                count = min(self.length - filled, length - read)
                here, there = slice(filled, filled + count), slice(read, read + count)
                for name in ("tokens", "targets"):
                    piece[name][here] = document[name][there]
                piece["documents"][here], piece["offsets"][here] = (
                    place,
                    np.arange(read, read + count),
                )
                if self._forgets:
                    piece["forget"][self._chunks(here)] = document["forget"][self._chunks(there)]
                filled, read = filled + count, read + count
                if filled == self.length:
                    yield piece
                    piece, filled = self._padding(len(lane)), 0
        if filled:
            yield piece
        while True:
            yield self._padding(len(lane))

    def _padding(self, document: int) -> Batch:
        values = {"tokens": 0, "targets": IGNORE, "documents": document, "offsets": 0}
        piece = {name: np.full(self.length, value, np.int32) for name, value in values.items()}
        if self._forgets:
            piece["forget"] = np.full(self.length // self._chunk_len, KEEP, np.int32)
        return piece

    def _chunks(self, tokens: slice) -> slice:
        return slice(tokens.start // self._chunk_len, tokens.stop // self._chunk_len)
