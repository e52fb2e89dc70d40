"""The text that `inspect` reads: passages to show, and what memory saves on words.

Words are counted by the distance to their last occurrence in the text.
"""

import codecs
import dataclasses
import heapq
import html
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.data.tokenizer import Tokenizer

# the numbers of passages: where memory helped most and least, and evenly from the whole text
EXTREMES, EVENLY = 3, 8
# the number of words that are listed
WORDS = 12
# the most words whose last place is remembered
KNOWN_WORDS = 1 << 18
# shorter words are in every chunk
WORD = re.compile(rb"[0-9A-Za-z_\x80-\xff]{4,}")
# the bins of distances: 1, 2..3, 4..7, ... tokens
DISTANCES = 32


class Passage(NamedTuple):
    """Consecutive tokens, and the bits that each cost."""

    # the place in the text, in tokens
    start: int
    targets: np.ndarray
    # bits with memory
    kept: np.ndarray
    # bits with the memory emptied before each chunk
    cut: np.ndarray

    @property
    def saved(self) -> float:
        return float((self.cut - self.kept).sum())


class Word(NamedTuple):
    """A word that memory made cheaper."""

    # bits
    saved: float
    kept: float
    text: str
    before: str
    # the place in the text, in tokens
    start: int


@dataclasses.dataclass(frozen=True)
class Readout:
    """Characters, with their part of the tokens' bits."""

    text: str
    kept: float
    cut: float


class TextGauge:
    """Keeps a few passages and words of a text of any length.

    It keeps the place of each word's last occurrence. `saved_X` sums what memory saved, by the
    distance to that place; its last bin is for words that were not read before.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._pieces = [tokenizer.decode([index]) for index in range(tokenizer.vocab_size)]
        self._tokens = 0
        # heaps
        self._best: list[tuple[float, int, Passage]] = []
        self._worst: list[tuple[float, int, Passage]] = []
        self._evenly: list[Passage] = []
        self._stride, self._passages = 1, 0
        self._words: list[tuple[float, int, Word]] = []
        self._last: dict[bytes, int] = {}
        # the last bin is for words that were not read before
        self.count_X, self.saved_X, self.squares_X = np.zeros((3, DISTANCES + 1))

    def add(self, targets: np.ndarray, kept: np.ndarray, cut: np.ndarray, length: int) -> None:
        """Adds more text, [n] each, in which passages have `length` tokens."""
        scored = targets != IGNORE
        targets, kept, cut = targets[scored], kept[scored], cut[scored]
        for start in range(0, len(targets), length):
            part = slice(start, start + length)
            self._keep(Passage(self._tokens + start, targets[part], kept[part], cut[part]))
        self._read_words(targets, kept, cut)
        self._tokens += len(targets)

    @property
    def evenly(self) -> list[Passage]:
        places = np.linspace(0, len(self._evenly) - 1, min(EVENLY, len(self._evenly)))
        return [self._evenly[int(place)] for place in places]

    @property
    def best(self) -> list[Passage]:
        """The passages where memory saved most, best first."""
        return [passage for saved, _, passage in sorted(self._best, reverse=True) if saved > 0]

    @property
    def worst(self) -> list[Passage]:
        """The passages where memory cost most, worst first."""
        return [passage for cost, _, passage in sorted(self._worst, reverse=True) if cost > 0]

    @property
    def words(self) -> list[Word]:
        """The words on which memory saved most, best first."""
        return [word for saved, _, word in sorted(self._words, reverse=True) if saved > 0]

    def readouts(self, passage: Passage) -> Iterator[Readout]:
        """Yields a passage's characters, each with its bits.

        Tokens that are parts of one character are taken together. Bytes that are not UTF-8 show as
        replacement characters.
        """
        decoder, kept, cut = codecs.getincrementaldecoder("utf-8")("replace"), 0.0, 0.0
        for token, more, less in zip(*passage[1:], strict=True):
            kept, cut = kept + more, cut + less
            if text := decoder.decode(self._pieces[token]):
                yield Readout(text, kept, cut)
                kept = cut = 0.0
        if text := decoder.decode(b"", final=True):
            yield Readout(text, kept, cut)

    def _keep(self, passage: Passage) -> None:
        for heap, value in ((self._best, passage.saved), (self._worst, -passage.saved)):
            heapq.heappush(heap, (value, -passage.start, passage))
            if len(heap) > EXTREMES:
                heapq.heappop(heap)
        if self._passages % self._stride == 0:
            self._evenly.append(passage)
            if len(self._evenly) > 2 * EVENLY:
                self._evenly = self._evenly[::2]
                self._stride *= 2
        self._passages += 1

    def _read_words(self, targets: np.ndarray, kept: np.ndarray, cut: np.ndarray) -> None:
        pieces = [self._pieces[token] for token in targets]
        ends = np.cumsum([len(piece) for piece in pieces])
        text, saved = b"".join(pieces), cut - kept
        for match in WORD.finditer(text):
            first, last = np.searchsorted(ends, (match.start(), match.end() - 1), side="right")
            part, place = slice(first, last + 1), self._tokens + int(first)
            before = self._last.get(match[0])
            if before is not None or len(self._last) < KNOWN_WORDS:
                self._last[match[0]] = place
            bin = (
                DISTANCES
                if before is None
                else min(int(np.frexp(max(place - before, 1))[1]) - 1, DISTANCES - 1)
            )
            gain = float(saved[part].sum())
            self.count_X[bin] += 1
            self.saved_X[bin] += gain
            self.squares_X[bin] += gain**2
            if len(self._words) < WORDS or gain > self._words[0][0]:
                context = text[max(match.start() - 60, 0) : match.start()]
                shown = (x.decode(errors="replace") for x in (match[0], context))
                heapq.heappush(
                    self._words, (gain, -place, Word(gain, float(kept[part].sum()), *shown, place))
                )
                if len(self._words) > WORDS:
                    heapq.heappop(self._words)


PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; \
padding: 0 1em; color: #333; background: #fff }}
pre {{ font: 13px/1.6 ui-monospace, monospace; white-space: pre-wrap; background: #fafafa;
      padding: .8em; overflow-wrap: anywhere }}
{styles}
</style><h1>{title}</h1><p>{lead}</p>
<p>Key: {key}. The pointer shows bits with memory &larr; without, of each character.</p>
"""
# the number of levels of a colour
LEVELS = 5
# the opacity of one level, so that text can be read on all levels
OPACITY = 0.11
# the bits of a level
STEP = 0.6


def page(title: str, lead: str, gauge: TextGauge) -> Iterator[str]:
    """Yields a page of HTML, piece by piece, that needs no other file.

    It shows passages; the colour of a character shows what memory saved on it.
    """
    # h: memory helped; c: it cost bits
    colours = {"h": "0,114,178", "c": "213,94,0"}
    styles = "\n".join(
        f".{name}{level} {{ background: rgba({rgb},{OPACITY * level:.2f}) }}"
        for name, rgb in colours.items()
        for level in range(1, LEVELS + 1)
    )
    key = f'<span class="h{LEVELS}">memory saved {LEVELS * STEP:.0f} bits or more</span>'
    key += f' ... <span class="h1">{STEP / 2:.1f}</span>'
    key += f' ... <span class="c1">memory cost {STEP / 2:.1f}</span>'
    key += f' ... <span class="c{LEVELS}">{LEVELS * STEP:.0f} bits or more</span>'
    yield PAGE.format(title=html.escape(title), styles=styles, lead=html.escape(lead), key=key)
    parts = {
        "Where memory helped most": gauge.best,
        "Where memory did most harm": gauge.worst,
        "From the whole text, evenly": gauge.evenly,
    }
    for heading, passages in parts.items():
        if passages:
            yield f"<h2>{heading}</h2>\n"
        for passage in passages:
            yield (
                f"<p>From token {passage.start:,} on: memory saved {passage.saved:+.1f} bits.</p>\n"
                "<pre>"
            )
            yield from (_span(readout) for readout in gauge.readouts(passage))
            yield "</pre>\n"


def level(saved: float) -> int:
    """Returns the level of colour, -LEVELS to LEVELS; positive: memory helped."""
    return int(np.clip(np.rint(saved / STEP), -LEVELS, LEVELS))


def _span(readout: Readout) -> str:
    shown, shade = html.escape(readout.text), level(readout.cut - readout.kept)
    if not shade:
        return shown
    name = f"{'h' if shade > 0 else 'c'}{abs(shade)}"
    return (
        f'<span class="{name}" title="{readout.kept:.1f} &larr; {readout.cut:.1f}">{shown}</span>'
    )
