"""Several sources in one run, each with its share of the tokens.

An example is `data.mixture="books/:0.7,code/:0.3"`. Documents stay whole and come in turns. A
source that ends begins again in another order, whatever the others have left.

Every lane reads rounds of ROUND tokens. In each round a source has its weight times ROUND tokens,
rounded. The documents of a source are spread evenly over a round: wherever one stops, a source is
off its share by less than the longest documents of all sources together. A document that lies
across the border of a round is cut there.

The number of a round alone determines its parts, so a run resumes anywhere at once.
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np

from rmat_jax.data.corpus import Corpus
from rmat_jax.data.lanes import FIELDS, LAST_ID, Batch, Parts, Passes
from rmat_jax.errors import UserError

# the number of a lane's tokens in a round
ROUND = 1 << 20


class MixedLanes:
    """Training batches of several corpora; see above.

    Args:
        corpora: the corpora to read.
        weights: the weight of each corpus; they add up to 1.
        batch_size: as for `Lanes`.
        length: as for `Lanes`.
        seed: as for `Lanes`.
        rows: as for `Lanes`.

    Raises:
        UserError: a corpus has no part for some lane, or a weight gives no token in a round.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        weights: Sequence[float],
        batch_size: int,
        length: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ):
        self.rows = range(batch_size) if rows is None else rows
        self.length = length
        self._corpora, self._seed = corpora, seed
        self._counts = round_counts(weights)
        self._passes = [
            Passes(corpus, batch_size, (seed, index), self.rows)
            for index, corpus in enumerate(corpora)
        ]
        for number, (passes, corpus) in enumerate(zip(self._passes, corpora, strict=True), 1):
            if passes.shortest == 0:
                raise UserError(
                    f"source {number} of data.mixture has {corpus.num_tokens} tokens, too few for "
                    f"batch_size={batch_size} lanes; leave it out, or lower batch_size"
                )
        # two rounds of each lane, since a batch may lie across their border
        self._rounds = functools.lru_cache(2 * len(self.rows))(self._round)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        batch = {name: np.empty((len(self.rows), self.length), np.int32) for name in FIELDS}
        for index, row in enumerate(self.rows):
            filled = 0
            while filled < self.length:
                number, position = divmod(step * self.length + filled, ROUND)
                count = min(self.length - filled, ROUND - position)
                here = slice(filled, filled + count)
                parts, owners = self._rounds(row, number)
                places, documents, offsets = parts.places(position, count)
                for owner in np.unique(owners[documents]):
                    mine = owners[documents] == owner
                    for name, values in self._corpora[owner].read(places[mine]).items():
                        batch[name][index, here][mine] = values
                # a round has fewer parts than tokens, so neighbours differ at its border too
                batch["documents"][index, here] = (documents + number * ROUND) & LAST_ID
                batch["offsets"][index, here] = offsets
                filled += count
        return batch

    def _round(self, row: int, number: int) -> tuple[Parts, np.ndarray]:
        """The parts of a lane's round in their order, and the index of each part's corpus."""
        # random offsets, so that lanes do not all read the same source at the same time
        turns = np.random.default_rng((self._seed, row, number)).random(len(self._counts))
        found = [
            passes.between(row, number * count, count)
            for passes, count in zip(self._passes, self._counts, strict=True)
        ]
        middles = [
            ((parts.ends - parts.lengths / 2) / count + turn) % 1
            for parts, count, turn in zip(found, self._counts, turns, strict=True)
        ]
        order = np.argsort(np.concatenate(middles), kind="stable")
        owners = np.repeat(np.arange(len(found)), [len(parts) for parts in found])
        return Parts.joined(found)[order], owners[order]


def round_counts(weights: Sequence[float]) -> list[int]:
    """The tokens of each source in a round: weight times ROUND, rounded so that the sum is ROUND.

    Raises:
        UserError: a source would have none.
    """
    shares = np.array(weights) * ROUND
    counts = np.floor(shares).astype(int)
    largest = np.argsort(counts - shares, kind="stable")[: ROUND - counts.sum()]
    counts[largest] += 1
    if not counts.all():
        raise UserError(
            f"data.mixture gives source {int(counts.argmin()) + 1} less than one of {ROUND:,} "
            "tokens; leave it out, or raise its weight"
        )
    return counts.tolist()
