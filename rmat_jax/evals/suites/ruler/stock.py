"""The material of the prompts of `ruler`: sentences, words and numbers, and their lengths."""

import dataclasses
import functools
import re
import string
import uuid
from collections.abc import Iterable, Iterator

import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.evals.passages import sentences

WORD = re.compile(r"(?<![^\W_])[a-z]{4,10}(?![^\W_])")
# the fewest different words of a text
FEWEST_WORDS = 16
# a text without content, which is repeated
NOISE = "The road is long. The hill is near. The river is wide. We walk on. Then we turn back."


@dataclasses.dataclass(frozen=True)
class Sample:
    """A prompt and what it asks for."""

    task: str
    # the most tokens of prompt and answer
    length: int
    # the text to read and remember
    context: str
    # the last line of the prompt, with the beginning of the answer
    question: str
    # the texts that the answer should name
    outputs: tuple[str, ...]
    # the number of things in the context that could be named in their place; None: not known
    candidates: int | None = None

    @property
    def answer(self) -> str:
        """All outputs as one text."""
        return ", ".join(self.outputs)


def room(tokenizer: Tokenizer, answer: str) -> int:
    """Returns the most tokens of a written answer: twice those of the right one."""
    return 2 * len(tokenizer.encode(f" {answer}".encode()))


class Stock:
    """The sentences and words of texts, and random names.

    Args:
        texts: texts whose sentences are the haystack, and whose words are names.
        tokenizer: the model's tokenizer.

    Raises:
        UserError: there is no text, or it has too few words.
    """

    def __init__(self, texts: Iterable[bytes], tokenizer: Tokenizer):
        decoded = (sentence.decode(errors="replace") for sentence in sentences(texts))
        self._sentences = [" ".join(sentence.split()) for sentence in decoded]
        words = {word for text in self._sentences for word in WORD.findall(text.lower())}
        self._words = np.array(sorted(words))
        if len(words) < FEWEST_WORDS:
            raise UserError(
                f"the text has {len(words)} different words of 4 to 10 letters, `ruler` needs "
                f"{FEWEST_WORDS}; give --text=FILE, a longer one"
            )
        self.tokenizer = tokenizer
        self._count = functools.lru_cache(1 << 16)(self.tokens)

    def tokens(self, text: str) -> int:
        """Returns the number of tokens of a text."""
        return len(self.tokenizer.encode(text.encode()))

    def room(self, answer: str) -> int:
        """Returns the most tokens of a written answer."""
        return room(self.tokenizer, answer)

    def fill(self, pieces: Iterator[str], budget: int) -> list[str]:
        """Returns the first pieces that fit into `budget` tokens with a space after each."""
        found = []
        for piece in pieces:
            budget -= self._count(f"{piece} ")
            if budget < 0:
                break
            found.append(piece)
        return found

    def noise(self) -> Iterator[str]:
        """Yields the same line without end."""
        while True:
            yield NOISE

    def essay(self, rng: np.random.Generator) -> Iterator[str]:
        """Yields consecutive sentences, from a random one on, without end."""
        place = int(rng.integers(len(self._sentences)))
        while True:
            yield self._sentences[place % len(self._sentences)]
            place += 1

    def words(self, rng: np.random.Generator, count: int) -> list[str]:
        """Returns different words: those of the text, then pairs of them.

        There may be fewer than `count`.
        """
        size = len(self._words)
        single = rng.permutation(self._words)[:count].tolist()
        # half of all pairs are quickly drawn
        return single + self.pairs(rng, min(count - len(single), size * size // 2))

    def pairs(self, rng: np.random.Generator, count: int) -> list[str]:
        """Returns different pairs of words, such as "silver-window"."""
        found: dict[str, None] = {}
        while len(found) < count:
            first, second = rng.choice(self._words, 2)
            found[f"{first}-{second}"] = None
        return list(found)

    def names(self, rng: np.random.Generator, kind: str, count: int) -> list[str]:
        """Returns different names.

        Args:
            rng: draws the names.
            kind: "word", "number" (seven digits) or "uuid".
            count: the number of names.
        """
        if kind == "word":
            return self.pairs(rng, count)
        found: dict[str, None] = {}
        while len(found) < count:
            drawn = (
                rng.integers(10**6, 10**7)
                if kind == "number"
                else uuid.UUID(bytes=rng.bytes(16), version=4)
            )
            found[f"{drawn}"] = None
        return list(found)


def letters(rng: np.random.Generator, count: int, size: int, alphabet: str) -> list[str]:
    """Returns `count` different random words of `size` letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(list(alphabet), size))] = None
    return list(found)


LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase
