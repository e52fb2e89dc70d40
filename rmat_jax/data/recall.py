"""Made-up documents that test whether the memory carries facts.

Each document tells facts, asks for them at its end, and scores only the answers. It has
`recall_gap + 2` chunks, and the last one asks.

Key-value pairs (`data.synthetic="recall"`) stand among noise. The first chunk holds `recall_pairs`
of them; the last opens with the keys, in another order, each followed by its value. With
`recall_place="any"` the pairs' chunk is drawn so that the logarithm of its distance is uniform:
what is learned across few chunks makes many learnable. With "even" the distance itself is uniform.
Keys may have been told before, `recall_updates` times on average, with other values. The last ones
count.
Ids: NOISE noise symbols, then `recall_symbols` keys, then as many values.

A pass key (`data.passkey=True`) is a number of DIGITS digits. A sentence in a text tells it, in the
first chunk or at a distance drawn likewise. The last chunk begins the sentence once more.
`passkey_decoys` other numbers a chunk stand in the context, which the memory must not keep; a text
has few of its own. They have one to DIGITS digits. Before each stand words from the second half of
the sentence's beginning, as in " key is 17", since such numbers are hardest to tell from a key.
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np

from rmat_jax.config import IGNORE, Config, DataConfig
from rmat_jax.data.lanes import FIELDS, LAST_ID, Batch
from rmat_jax.data.tokenizer import Tokenizer, check_vocabulary
from rmat_jax.errors import UserError

NOISE = 8
# the number of tokens that are made at once, if documents are shorter
BLOCK = 8192
SPLITS = ("train", "heldout")
BEFORE, AFTER = b"\nThe pass key is ", b". Remember the pass key.\n"
DIGITS = 5


def recall_vocab_size(config: DataConfig) -> int:
    """The number of token ids; there is no end-of-document token."""
    return NOISE + 2 * config.recall_symbols


class MadeLanes:
    """Lanes (see `lanes.py`) of documents made on the fly from (seed, split, lane, place in the
    lane).

    A step need not be a document long. If it is shorter, all rows ask in the same steps, and the
    other steps score nothing. `chunks_per_step = recall_gap + 2` asks in every step.

    Args:
        config: the experiment.
        rows: the lanes that this process reads.
        split: "train" or "heldout"; they share documents only by chance.
        steps: the number of steps; endless by default.
    """

    # the scored tokens stand for no text
    num_bytes = None

    def __init__(self, config: Config, rows: Sequence[int], split: str, steps: int = sys.maxsize):
        self.rows, self.steps = rows, steps
        self.length = config.segment_len
        self._data, self._chunk_len = config.data, config.model.chunk_len
        self.document_len = (self._data.recall_gap + 2) * self._chunk_len
        self._split = SPLITS.index(split)
        # Documents are made in blocks, which are kept for the next steps: one at a time is ten
        # times slower.
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
        made = [
            np.concatenate([self._kept(row, n) for n in numbers], axis=1)[:, span]
            for row in self.rows
        ]
        tokens_and_targets = np.stack(made, axis=1)
        same = np.broadcast_to(
            np.stack([documents & LAST_ID, offsets])[:, None], tokens_and_targets.shape
        )
        return dict(
            zip(FIELDS, np.concatenate([tokens_and_targets, same]).astype(np.int32), strict=True)
        )

    def _block(self, row: int, number: int) -> np.ndarray:
        """Tokens and targets of some documents end to end, int32 [2, documents * document_len]."""
        rng = np.random.default_rng((self._data.seed, self._split, row, number))
        return np.stack(self._make(rng, self._block_documents)).reshape(2, -1)

    def _make(self, rng: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets, int32 [documents, document_len] each."""
        raise NotImplementedError

    def _distances(
        self, rng: np.random.Generator, nearest: int | np.ndarray, end: int, count: int
    ) -> np.ndarray:
        """Draws distances from nearest .. end - 1, uniform for "even", else log-uniform."""
        if self._data.recall_place == "even":
            return rng.integers(nearest, end, size=count)
        drawn = np.exp(rng.uniform(np.log(nearest), np.log(end), size=count)).astype(int)
        # exp and log may be off by one
        return drawn.clip(nearest, end - 1)


class RecallLanes(MadeLanes):
    """Key-value pairs in noise.

    Raises:
        UserError: the symbols exceed the vocabulary, or the pairs exceed a chunk.
    """

    def __init__(self, config: Config, rows: Sequence[int], split: str, steps: int = sys.maxsize):
        data, chunk_len = config.data, config.model.chunk_len
        check_vocabulary(config, recall_vocab_size(data), f"recall_symbols={data.recall_symbols}")
        if 2 * data.recall_pairs > chunk_len:
            raise UserError(
                f"recall_pairs={data.recall_pairs} take {2 * data.recall_pairs} tokens and must "
                "fit into "
                f"chunk_len={chunk_len}; use at most {chunk_len // 2} pairs"
            )
        super().__init__(config, rows, split, steps)

    def _make(self, rng: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
        pairs, symbols = self._data.recall_pairs, self._data.recall_symbols

        def some(count: int) -> np.ndarray:
            """Draws for each document `pairs` different numbers below `count`."""
            return rng.permuted(np.tile(np.arange(count), (documents, 1)), axis=1)[:, :pairs]

        tokens = rng.integers(NOISE, size=(documents, self.document_len), dtype=np.int32)
        targets = np.full_like(tokens, IGNORE)
        keys = NOISE + some(symbols)
        values = NOISE + symbols + rng.integers(symbols, size=(documents, pairs))
        told, order = 2 * some(self._chunk_len // 2), some(pairs)
        if self._data.recall_place != "first":
            end = self._data.recall_gap + 2
            distance = self._distances(rng, 1, end, documents)
            told += (end - 1 - distance)[:, None] * self._chunk_len
            updates = rng.poisson(self._data.recall_updates, documents) * (distance + 1 < end)
            for number in range(updates.max()):
                which = np.flatnonzero(updates > number)
                earlier = self._distances(rng, distance[which] + 1, end, len(which))
                before = 2 * some(self._chunk_len // 2)[which]
                before += (end - 1 - earlier)[:, None] * self._chunk_len
                tokens[which[:, None], before] = keys[which]
                others = rng.integers(symbols, size=before.shape)
                tokens[which[:, None], before + 1] = NOISE + symbols + others
        np.put_along_axis(tokens, told, keys, axis=1)
        np.put_along_axis(tokens, told + 1, values, axis=1)
        asked = self.document_len - self._chunk_len + 2 * np.arange(pairs)
        tokens[:, asked] = np.take_along_axis(keys, order, axis=1)
        tokens[:, asked + 1] = targets[:, asked] = np.take_along_axis(values, order, axis=1)
        return tokens, targets


class PassKey:
    """Writes a pass key into pieces of a text. Each digit is a token of its own."""

    def __init__(self, text: np.ndarray, tokenizer: Tokenizer, chunk_len: int):
        """Takes a text to write into.

        Args:
            text: its tokens, read from a random place on, and from the beginning after the end.
            tokenizer: the text's tokenizer.
            chunk_len: the model's chunk length.

        Raises:
            UserError: a chunk is too short for the question, or a digit takes several tokens.
        """
        self._text, self._chunk_len, self._end = text, chunk_len, tokenizer.end
        self._before, self._after = (tokenizer.encode(part) for part in (BEFORE, AFTER))
        digits = [tokenizer.encode(b"%d" % digit) for digit in range(10)]
        if any(len(digit) != 1 for digit in digits):
            raise UserError(
                f"pass keys need a tokenizer in which a digit is a token, {tokenizer.describe} is "
                "none; use data.tokenizer='bytes' or 'bpe'"
            )
        self._digits = np.concatenate(digits)
        self.sentence_len = len(self._before) + DIGITS + len(self._after)
        asked_len = len(self._before) + DIGITS
        if asked_len > chunk_len:
            raise UserError(
                f"chunk_len={chunk_len} is too short to ask for a pass key, which takes "
                f"{asked_len} tokens; use at least "
                f"{asked_len}"
            )

    def document(
        self, rng: np.random.Generator, chunks: int, distance: int, decoys: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Makes a document of `chunks` of context and the chunk that asks.

        Args:
            rng: draws the key and the text.
            chunks: the number of chunks of context.
            distance: the tokens from the sentence's beginning to the chunk that asks; from
                `sentence_len` to all but one.
            decoys: how many other numbers a chunk of context has on average.

        Returns:
            Tokens and targets, int32 [(chunks + 1) * chunk_len] each; only the digits are targets.
        """
        key = self._digits[rng.integers(10, size=DIGITS)]
        asked = chunks * self._chunk_len
        told, answer = asked - distance, asked + len(self._before)
        places = rng.integers(len(self._text)) + np.arange(asked + self._chunk_len)
        tokens = self._text.take(places, mode="wrap").astype(np.int32)
        for place in rng.integers(asked, size=rng.poisson(decoys * chunks)):
            like = self._before[rng.integers(len(self._before) // 2, len(self._before)) :]
            other = [*like, *self._digits[rng.integers(10, size=rng.integers(1, DIGITS + 1))]]
            tokens[place : place + len(other)] = other
        tokens[0] = self._end
        tokens[told : told + self.sentence_len] = np.concatenate([self._before, key, self._after])
        tokens[asked:answer], tokens[answer : answer + DIGITS] = self._before, key
        targets = np.full_like(tokens, IGNORE)
        targets[answer - 1 : answer - 1 + DIGITS] = key
        return tokens, targets


class PassKeyLanes(MadeLanes):
    """Pass keys in a text. The sentence begins in the first chunk, or with another `recall_place`
    anywhere.

    Args:
        text: the text's tokens.
        tokenizer: the text's tokenizer.

    Raises:
        UserError: a chunk is too short for the question, or the context for the sentence.
    """

    def __init__(
        self,
        config: Config,
        rows: Sequence[int],
        split: str,
        text: np.ndarray,
        tokenizer: Tokenizer,
        steps: int = sys.maxsize,
    ):
        super().__init__(config, rows, split, steps)
        self._writer = PassKey(text, tokenizer, self._chunk_len)
        self._context_len, sentence_len = (
            self.document_len - self._chunk_len,
            self._writer.sentence_len,
        )
        if sentence_len >= self._context_len:
            raise UserError(
                f"recall_gap={self._data.recall_gap} chunks of {self._chunk_len} tokens leave a "
                "pass key too little room: its "
                f"sentence takes {sentence_len}; use at least "
                f"recall_gap={sentence_len // self._chunk_len}"
            )

    def _make(self, rng: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
        nearest, farthest = self._writer.sentence_len, self._context_len
        if self._data.recall_place == "first":
            distances = (farthest - rng.integers(1, self._chunk_len, size=documents)).clip(
                min=nearest
            )
        else:
            distances = self._distances(rng, nearest, farthest, documents)
        chunks = self._data.recall_gap + 1
        decoys = self._data.passkey_decoys
        made = [self._writer.document(rng, chunks, distance, decoys) for distance in distances]
        tokens, targets = zip(*made, strict=True)
        return np.stack(tokens), np.stack(targets)
