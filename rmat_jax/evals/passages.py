"""Text to put between facts, sentence by sentence.

`babi` and `ruler` hide in it what they ask for.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError

# A sentence ends after its mark and the white space behind it, or with its line. A sentence without
# an end is cut.
SENTENCE = re.compile(rb".{1,400}?(?:[.!?][\"')\]]*\s+|\n\s*|\Z)|.{400}", re.DOTALL)
# the most bytes of text to put between facts, which is enough and quickly encoded
DISTRACTOR_BYTES = 4 << 20


def sentences(texts: Iterable[bytes]) -> list[bytes]:
    """Returns the sentences of the first DISTRACTOR_BYTES of the texts, as they stand.

    Raises:
        UserError: there is no text.
    """
    found, room = [], DISTRACTOR_BYTES
    for text in texts:
        found += [match[0] for match in SENTENCE.finditer(text[:room]) if match[0].strip()]
        room -= len(text)
        if room <= 0:
            break
    if not found:
        raise UserError(
            "there is no text to put between the facts, or only white space; "
            "give --text=FILE, a long one"
        )
    return found


class Distractor:
    """Text to put between facts, sentence by sentence.

    Args:
        texts: texts, of which the first DISTRACTOR_BYTES are used.
        tokenizer: the model's tokenizer.

    Raises:
        UserError: there is no text.
    """

    def __init__(self, texts: Iterable[bytes], tokenizer: Tokenizer):
        self._sentences = [tokenizer.encode(sentence) for sentence in sentences(texts)]
        self.num_tokens = sum(map(len, self._sentences))

    def passage(self, tokens: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns consecutive sentences of exactly so many tokens together.

        The first sentence may be cut. The text begins again where it ends.
        """
        place, found = int(rng.integers(len(self._sentences))), []
        while tokens > 0:
            found.append(self._sentences[place % len(self._sentences)][-tokens:])
            tokens, place = tokens - len(found[-1]), place - 1
        return found[::-1]


def mixed(facts: Sequence, passage: Sequence, rng: np.random.Generator) -> list:
    """Puts the facts, in their order, at random places between the parts of a passage.

    Args:
        facts: items of any kind.
        passage: items of the same kind.
        rng: draws the places.

    Returns:
        All items, in order.
    """
    places = np.sort(rng.integers(len(passage) + 1, size=len(facts)))
    cuts = [0, *places.tolist(), len(passage)]
    parts = []
    for index, fact in enumerate(facts):
        parts += [*passage[cuts[index] : cuts[index + 1]], fact]
    return [*parts, *passage[cuts[-2] :]]


def stretch(
    facts: Sequence[np.ndarray], passage: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Mixes facts and sentences, both given as token ids, and joins them."""
    return np.concatenate(mixed(facts, passage, rng))
