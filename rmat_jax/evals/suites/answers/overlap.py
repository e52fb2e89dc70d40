"""Scores of how much a written text agrees with a reference: exact match, token F1, ROUGE.

Each score is a number from 0 to 1. They are written out here because the usual package for ROUGE
depends on a large toolkit for languages. Without its stemmer it gives the same numbers.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Returns the text in lower case, without punctuation and articles, with single spaces.

    Source: SQuAD, arXiv 1606.05250.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(written: str, reference: str) -> float:
    """Returns 1 where both texts are the same once normalised, else 0."""
    return float(normalise(written) == normalise(reference))


def token_f1(written: str, reference: str) -> float:
    """Returns the F1 of the words that both texts have once normalised.

    An empty text agrees only with an empty one.
    """
    ours, theirs = normalise(written).split(), normalise(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def rouge_n(written: str, reference: str, n: int) -> float:
    """Returns the F1 of the n-grams that both texts have; 0 where one has none.

    Words are in lower case and not stemmed. Source: Lin 2004.
    """
    ours, theirs = (
        Counter(zip(*(words[i:] for i in range(n)), strict=False))
        for words in _words(written, reference)
    )
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(written: str, reference: str) -> float:
    """Returns the F1 of the longest common subsequence of words.

    Line breaks mean nothing: this is ROUGE-L of a sentence. Source: Lin 2004.
    """
    ours, theirs = _words(written, reference)
    return _f1(common_subsequence(ours, theirs), len(ours), len(theirs))


def best(score: Callable[[str, str], float], written: str, references: Sequence[str]) -> float:
    """Returns the score against the reference that agrees most."""
    return max(score(written, reference) for reference in references)


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence.

    A row of the usual table is one integer here: bit i is set where the row does not grow at a[i].
    Source: Hyyrö 2004.
    """
    places: dict[str, int] = defaultdict(int)
    for index, word in enumerate(a):
        places[word] |= 1 << index
    everywhere = (1 << len(a)) - 1
    row = everywhere
    for word in b:
        found = row & places.get(word, 0)
        row = ((row + found) | (row - found)) & everywhere
    return len(a) - row.bit_count()


def _words(*texts: str) -> list[list[str]]:
    return [re.findall(r"[a-z0-9]+", text.lower()) for text in texts]


def _f1(common: int, ours: int, theirs: int) -> float:
    """2PR / (P + R) of precision common / ours and recall common / theirs."""
    return 2 * common / (ours + theirs) if common else 0.0
