"""Synthetic key-value recall: does the memory carry facts across chunks of noise?

A document is `recall_gap + 2` chunks. The first holds `recall_pairs` pairs, a key and its value, among noise; the last
opens with the keys, in another order, each followed by its value, which alone is scored. With `recall_place="any"` the
pairs' chunk is drawn, and the logarithm of its distance is uniform: what is learned across few chunks makes many learnable.
Ids: NOISE noise symbols, then `recall_symbols` keys, then as many values.
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np

from rmat_jax.config import IGNORE, Config, DataConfig, UserError
from rmat_jax.data.lanes import FIELDS, LAST_ID, Batch
from rmat_jax.data.tokenizer import check_vocabulary

NOISE = 8
BLOCK = 8192  # tokens that are made at once, if documents are shorter
SPLITS = ("train", "heldout")


def recall_vocab_size(config: DataConfig) -> int:
    """Distinct token ids; there is no end-of-document token."""
    return NOISE + 2 * config.recall_symbols


class RecallLanes:
    """Lanes (see `lanes.py`) of documents made up on the fly from (seed, split, lane, place in the lane).

    A step need not be a document long. If it is shorter, all rows ask in the same steps, and others score nothing:
    `chunks_per_step = recall_gap + 2` asks in every step.

    Args:
        config: the experiment.
        rows: which lanes this process reads.
        split: "train" or "heldout"; they share no document but by chance.
        steps: how many there are; endless by default.

    Raises:
        UserError: the symbols exceed the vocabulary, or the pairs a chunk.
    """

    num_bytes = None  # not text

    def __init__(self, config: Config, rows: Sequence[int], split: str, steps: int = sys.maxsize):
        data, chunk_len = config.data, config.model.chunk_len
        check_vocabulary(config, recall_vocab_size(data), f"recall_symbols={data.recall_symbols}")
        if 2 * data.recall_pairs > chunk_len:
            raise UserError(
                f"recall_pairs={data.recall_pairs} take {2 * data.recall_pairs} tokens and must fit into "
                f"chunk_len={chunk_len}; use at most {chunk_len // 2} pairs"
            )
        self.rows, self.steps = rows, steps
        self.length = config.segment_len
        self.document_len = (data.recall_gap + 2) * chunk_len
        self._data, self._chunk_len = data, chunk_len
        self._split = SPLITS.index(split)
        # Documents are made, and kept for the next steps, by the block: one at a time is ten times slower.
        self._block_documents = max(1, BLOCK // self.document_len)
        self._kept = functools.lru_cache(2 * len(rows))(self._block)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        places = np.arange(step * self.length, (step + 1) * self.length)
        documents, offsets = np.divmod(places, self.document_len)
        block_len = self._block_documents * self.document_len
        first, begin = divmod(step * self.length, block_len)
        numbers = range(first, places[-1] // block_len + 1)
        span = slice(begin, begin + self.length)
        made = [np.concatenate([self._kept(row, n) for n in numbers], axis=1)[:, span] for row in self.rows]
        tokens_and_targets = np.stack(made, axis=1)
        same = np.broadcast_to(np.stack([documents & LAST_ID, offsets])[:, None], tokens_and_targets.shape)
        return dict(zip(FIELDS, np.concatenate([tokens_and_targets, same]).astype(np.int32), strict=True))

    def _block(self, row: int, number: int) -> np.ndarray:
        """Tokens and targets of some documents end to end, int32 [2, documents * document_len]."""
        pairs, symbols, documents = self._data.recall_pairs, self._data.recall_symbols, self._block_documents
        rng = np.random.default_rng((self._data.seed, self._split, row, number))

        def some(count: int) -> np.ndarray:
            """For each document, `pairs` of the numbers below `count`, no two alike, in any order."""
            return rng.permuted(np.tile(np.arange(count), (documents, 1)), axis=1)[:, :pairs]

        tokens = rng.integers(NOISE, size=(documents, self.document_len), dtype=np.int32)
        targets = np.full_like(tokens, IGNORE)
        keys = NOISE + some(symbols)
        values = NOISE + symbols + rng.integers(symbols, size=(documents, pairs))
        told, order = 2 * some(self._chunk_len // 2), some(pairs)
        if self._data.recall_place == "any":
            distance = np.exp(rng.uniform(0, np.log(self._data.recall_gap + 2), size=(documents, 1))).astype(int)
            told += (self._data.recall_gap + 1 - distance) * self._chunk_len
        np.put_along_axis(tokens, told, keys, axis=1)
        np.put_along_axis(tokens, told + 1, values, axis=1)
        asked = self.document_len - self._chunk_len + 2 * np.arange(pairs)
        tokens[:, asked] = np.take_along_axis(keys, order, axis=1)
        tokens[:, asked + 1] = targets[:, asked] = np.take_along_axis(values, order, axis=1)
        return np.stack([tokens, targets]).reshape(2, -1)
