"""The cost of held-out bytes without a neural network: gzip, and an order-2 byte model."""

import gzip
from collections.abc import Iterable, Iterator

import numpy as np

# the symbol that opens and ends a document, as in the byte tokenizer
END = 256
SYMBOLS = 257
# the number of symbols that are counted at once
BLOCK = 1 << 22
# the most bytes of training text; more would hardly change the counts
TRAINING_BYTES = 1 << 26

Documents = Iterable[bytes]


def gzip_bits_per_byte(documents: Documents) -> tuple[float, float]:
    """Returns the bits per byte of `gzip -9` for each document on its own, and for one file of all.

    The first carries nothing across documents, as our model. The second may carry something, and
    has one header instead of many, so it is the stronger one on short documents. Neither has seen
    the training text; our model has.
    """
    documents = list(documents)
    size = sum(map(len, documents))
    alone = sum(len(gzip.compress(document, 9)) for document in documents)
    return 8 * alone / size, 8 * len(gzip.compress(b"".join(documents), 9)) / size


def order2_bits_per_byte(train: Documents, heldout: Documents) -> float:
    """Returns the bits per byte under an `Order2` that has read TRAINING_BYTES of training text.

    The end of a document costs bits and stands for no byte, as with our model.
    """
    bits, size = Order2(_first(train, TRAINING_BYTES)).bits(heldout)
    return bits / size


class Order2:
    """Predicts the next symbol from the last two of the document, with Witten-Bell smoothing.

    A symbol is a byte or the document's end.

        P_n(x | c) = (count(c x) + kinds(c) P_{n-1}(x | c')) / (count(c) + kinds(c))

    c are the last n symbols, c' all of them but the oldest, kinds(c) the number of different
    symbols that followed c, and P_{-1} = 1 / 257. For a context that never occurred P_n = P_{n-1}.
    Before its first byte a document has only END symbols.

    Source: Witten and Bell 1991, method C, interpolated.
    """

    def __init__(self, documents: Documents):
        # counts by oldest, newest and next symbol
        self.counts = np.zeros((SYMBOLS, SYMBOLS, SYMBOLS), np.int64)
        for older, newer, following in _triples(documents):
            keys = (older * SYMBOLS + newer) * SYMBOLS + following
            self.counts += np.bincount(keys, minlength=SYMBOLS**3).reshape(self.counts.shape)
        # counts by order
        self.tables = [self.counts.sum((0, 1)), self.counts.sum(0), self.counts]

    def probabilities(self, older: np.ndarray, newer: np.ndarray) -> np.ndarray:
        """Returns the probabilities [..., 257] of all symbols after each context.

        Args:
            older: [...] the symbol before the last.
            newer: [...] the last symbol.
        """
        return self._smooth(older[..., None], newer[..., None], np.arange(SYMBOLS))

    def bits(self, documents: Documents) -> tuple[float, int]:
        """Returns the bits that the documents cost, their ends included, and their bytes."""
        bits, size = 0.0, 0
        for older, newer, following in _triples(documents):
            bits -= np.log2(self._smooth(older, newer, following)).sum()
            size += int((following != END).sum())
        return float(bits), size

    def _smooth(self, older: np.ndarray, newer: np.ndarray, following: np.ndarray) -> np.ndarray:
        probability = np.full(np.broadcast_shapes(older.shape, following.shape), 1 / SYMBOLS)
        for table, context in zip(self.tables, ((), (newer,), (older, newer)), strict=True):
            total, kinds = table.sum(-1)[context], (table > 0).sum(-1)[context]
            mixed = (table[*context, following] + kinds * probability) / np.maximum(
                total + kinds, 1
            )
            probability = np.where(total > 0, mixed, probability)
        return probability


def _first(documents: Documents, budget: int) -> Iterator[bytes]:
    for document in documents:
        yield document[:budget]
        budget -= len(document)
        if budget <= 0:
            return


def _triples(documents: Documents) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields every symbol with the two before it: (older, newer, next), about BLOCK at a time."""
    text, waiting = [], 0
    for document in documents:
        text += [np.frombuffer(document, np.uint8).astype(np.int64), np.array([END])]
        waiting += len(document) + 1
        if waiting > BLOCK:
            yield _join(text)
            text, waiting = [], 0
    if text:
        yield _join(text)


def _join(text: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    symbols = np.concatenate([np.array([END, END]), *text])
    older, newer = symbols[:-2], symbols[1:-1]
    # The last byte of one document is no context for the next.
    return np.where(newer == END, END, older), newer, symbols[2:]
