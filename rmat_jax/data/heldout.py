"""Held-out batches: one pass in order, the same in every evaluation of a run."""

from collections.abc import Iterator

import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.data.corpus import Corpus
from rmat_jax.data.lanes import FIELDS, Batch, Parts, cut
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError


class HeldoutLanes:
    """Batches like those of `lanes.py`, which read at most `eval_tokens` tokens, each once.

    A row reads at most its share, eval_tokens / B. Longer documents are cut into parts of that
    size, and the parts are dealt to the rows in turn, first the beginning of every document, then
    what follows it. So many short documents and a single long one both fill all rows. A row that
    ends early is padded with unscored `end` tokens, which make a document of their own.

    bits per byte = total nats / ln 2 / num_bytes. The target `end` costs nats and stands for no
    byte. In dialogues only the answers count, for both.

    Args:
        corpus: as for `Lanes`.
        batch_size: as for `Lanes`.
        length: as for `Lanes`.
        eval_tokens: the most tokens of all rows together.
        tokenizer: the corpus' tokenizer.

    Raises:
        UserError: `eval_tokens` has no token for each row, or reaches no answer.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        length: int,
        eval_tokens: int,
        tokenizer: Tokenizer,
    ):
        share = eval_tokens // batch_size
        if share == 0:
            raise UserError(
                f"eval_tokens={eval_tokens} must be at least eval_batch_size={batch_size}: a "
                "token for each row"
            )
        self.length = length
        self._corpus = corpus
        self._tokenizer = tokenizer
        parts, ordinal = cut(corpus, share)
        parts = parts[np.argsort(ordinal, kind="stable")]
        self._lanes = [_shorten(parts[row::batch_size], share) for row in range(batch_size)]
        if corpus.sizes is None:
            self.num_bytes = sum(map(len, self.texts()))
        else:
            self.num_bytes = sum(map(self._size, self._parts()))
        if not self.num_bytes and corpus.learned is not None:
            raise UserError(
                f"eval_tokens={eval_tokens} ends before the first answer; raise it, or lower "
                f"eval_batch_size={batch_size}"
            )

    def texts(self) -> Iterator[bytes]:
        """The text of the scored targets of all rows, one text for each part that is read."""
        for part in self._parts():
            targets = self._corpus.targets(part)
            yield self._tokenizer.decode(targets[targets != IGNORE])

    def _parts(self) -> Iterator[slice]:
        """The places of the corpus that are read, part by part."""
        for lane in self._lanes:
            for start, length in zip(lane.starts, lane.lengths, strict=True):
                yield slice(start, start + length)

    def _size(self, part: slice) -> int:
        """The bytes that the scored targets of a part stand for. `end` stands for none."""
        after = slice(part.start + 1, part.stop + 1)
        scored = self._corpus.targets(part) == self._corpus.tokens[after]
        return int(self._corpus.sizes[after][scored].sum())

    def __len__(self) -> int:
        return -(-max(int(lane.lengths.sum()) for lane in self._lanes) // self.length)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        position = step * self.length
        batch = {name: np.empty((len(self._lanes), self.length), np.int32) for name in FIELDS}
        for index, lane in enumerate(self._lanes):
            total = int(lane.lengths.sum())
            count = min(max(total - position, 0), self.length)
            padding = np.arange(position, position + self.length) - total
            for name, fill in zip(
                FIELDS, (self._tokenizer.end, IGNORE, len(lane), padding), strict=True
            ):
                batch[name][index] = fill
            if count:
                for name, values in lane.read(self._corpus, position, count).items():
                    batch[name][index, :count] = values
        return batch


def _shorten(parts: Parts, limit: int) -> Parts:
    """The first `limit` tokens of the stream."""
    begins = parts.ends - parts.lengths
    kept = begins < limit
    return Parts(parts.starts[kept], np.minimum(parts.lengths, limit - begins)[kept])
