"""The windows of `length`: they score the same tokens at every reach."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.errors import UserError
from rmat_jax.evals.packing import Document, Packed
from rmat_jax.evals.suite import Subject, say
from rmat_jax.train.heldout import MIN_DOCUMENTS, evaluate_heldout

# the chunks of a document that are scored, or an eighth of the longest reach where that is more
SCORED_CHUNKS = 16
# the parts of a document that count as units, where documents are too few for a standard error
STRETCHES = 16


class Window(NamedTuple):
    """Part of a document, in chunks.

    It is read from `start` to `end` with a fresh state, and scored from `first` on.
    """

    document: int
    reach: int
    start: int
    first: int
    end: int


class Reaches(NamedTuple):
    """The costs of the same N tokens at each of R reaches, in the order of documents and places."""

    # the reaches in chunks: 0, 1, 2, 4, ...
    chunks: list[int]
    # the bits that each token costs
    bits_RN: np.ndarray
    documents_N: np.ndarray
    # the place in the document of the token that predicts
    places_N: np.ndarray
    # the bits that each token costs at the longest reach with the memory emptied before each chunk,
    # while window and last token stay; None: the model has no memory
    emptied_N: np.ndarray | None


def longest_reach(chunks: Sequence[int], most: int) -> int:
    """Returns the largest power of two that enough documents exceed by a chunk.

    Ten documents are enough, or half of them if there are fewer than twenty.

    Args:
        chunks: the number of whole chunks of each document.
        most: the longest reach that may be returned, in chunks.

    Raises:
        UserError: too few documents exceed two chunks.
    """
    needed = min(MIN_DOCUMENTS, -(-len(chunks) // 2))
    room = min(sorted(chunks, reverse=True)[needed - 1] - 1, most)
    if room < 1:
        raise UserError(
            f"the texts are too short for `length`: {needed} of {len(chunks)} documents must be "
            "longer than two chunks; give longer ones with --text=PATH"
        )
    return 1 << (room.bit_length() - 1)


def windows_of(chunks: Sequence[int], longest: int) -> list[Window]:
    """Returns windows so that each reach scores the same chunks of each document.

    These are the chunks from `longest` on: `SCORED_CHUNKS` of them, or an eighth of `longest` if
    that is more, and no more than `longest`. So the longest reach begins with the document.

    Args:
        chunks: the number of whole chunks of each document.
        longest: the longest reach, in chunks; a power of two.
    """
    windows = []
    for document, count in enumerate(chunks):
        scored = min(count - longest, longest, max(SCORED_CHUNKS, longest // 8))
        end = longest + scored
        windows += [Window(document, 0, n, n, n + 1) for n in range(longest, end)]
        for reach in powers(longest):
            for first in range(longest, end, reach):
                windows.append(
                    Window(document, reach, first - reach, first, min(first + reach, end))
                )
    return windows


def powers(longest: int) -> list[int]:
    """Returns 1, 2, 4, ..., longest."""
    return [1 << n for n in range(longest.bit_length())]


def measure(subject: Subject, texts: Sequence[np.ndarray], windows: Sequence[Window]) -> Reaches:
    """Reads all windows, many side by side, and returns what their scored tokens cost."""
    reaches, documents, places, bits = _read(subject, texts, windows)
    chunks = np.unique(reaches).tolist()
    documents_RN, places_RN, bits_RN = (
        x.reshape(len(chunks), -1) for x in (documents, places, bits)
    )
    emptied_N = None
    if subject.config.model.memory:
        # each layer reaches back by one more window, and the token shift by the last token
        c = subject.config.model
        back = -(-(c.num_layers * (c.local.window if c.local else 0) + 1) // c.chunk_len)
        whole = [w for w in windows if w.reach == chunks[-1]]
        near = [w._replace(start=max(w.first - back, w.start)) for w in whole]
        emptied_N = _read(subject, texts, near, cut=True)[-1]
    return Reaches(chunks, bits_RN, documents_RN[0], places_RN[0], emptied_N)


def _read(
    subject: Subject, texts: Sequence[np.ndarray], windows: Sequence[Window], cut: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns reach, document, place and bits of each scored token, sorted by the first three.

    With `cut` the memory is emptied before each chunk.
    """
    chunk_len = subject.config.model.chunk_len

    def make(index: int) -> Document:
        w = windows[index]
        text = texts[w.document][w.start * chunk_len : w.end * chunk_len + 1]
        targets = text[1:].copy()
        targets[: (w.first - w.start) * chunk_len] = IGNORE
        return {"tokens": text[:-1], "targets": targets}

    packed = Packed(
        [(w.end - w.start) * chunk_len for w in windows], make, chunk_len, forgets=False
    )
    say(f"{packed.tokens:,} tokens")
    heldout = evaluate_heldout(subject.config, subject.params, packed, None, cut=cut)
    of = np.array(windows)[packed.owners(heldout)]
    documents, reaches, places = of[:, 0], of[:, 1], of[:, 2] * chunk_len + heldout.offsets
    order = np.lexsort((places, documents, reaches))
    return tuple(x[order] for x in (reaches, documents, places, heldout.bits))


def units(found: Reaches) -> tuple[str, np.ndarray]:
    """Returns units that count as independent: documents, or stretches of them if they are few.

    Returns:
        The name of the units in the plural, and the number of its unit for each token.
    """
    count = len(np.unique(found.documents_N))
    if count >= MIN_DOCUMENTS:
        return "documents", found.documents_N
    # tokens stand document by document
    order = np.arange(len(found.documents_N))
    stretch = order * STRETCHES // len(order)
    return "stretches of documents", found.documents_N * STRETCHES + stretch
