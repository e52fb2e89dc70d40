"""RULER's tasks beyond needles: variables that are set to each other, and frequent words.

Each function takes the arguments of `Needles.make`, and returns None where no prompt fits.
"""

import bisect
import math
from collections.abc import Callable

import numpy as np

from rmat_jax.evals.passages import mixed
from rmat_jax.evals.suites.ruler.stock import LOWER, UPPER, Sample, Stock, letters

# the number of variables that are set to the one before
HOPS = 4
# the most tokens of the example before the question on variables
EXAMPLE_TOKENS = 500
# How often each common and each other word stands in a list. The first pair is taken if it fits.
REPEATS = ((30, 3), (6, 1))
# the number of words in the list of the example, and the same two numbers
EXAMPLES = ((40, 10, 3), (20, 3, 1))
COMMON = 10
# the parameters of the zeta distribution of coded words
ALPHA, ZETA = 2.0, math.pi**2 / 6
# the tokens of a text for each different coded word
TOKENS_PER_WORD = 50
FREQUENT, DOTS = 3, "..."


def variables(stock: Stock, name: str, length: int, rng: np.random.Generator) -> Sample | None:
    """Makes a chain of variables in noise, and asks for all that have its value."""
    example = _chain(stock, name, min(EXAMPLE_TOKENS, length // 3), rng, size=3)
    if example is None:
        return None
    shown = f"{example.context}\n{example.question} {example.answer}\n\n"
    found = _chain(stock, name, length - stock.tokens(shown), rng, size=5)
    return found and Sample(
        name, length, shown + found.context, found.question, found.outputs, found.candidates
    )


def _chain(
    stock: Stock, name: str, length: int, rng: np.random.Generator, size: int
) -> Sample | None:
    names = letters(rng, HOPS + 1, size, UPPER)
    value = rng.integers(10_000, 100_000)
    told = [
        f"VAR {new} = {old}"
        for new, old in zip(names, [value, *(f"VAR {one}" for one in names)], strict=False)
    ]
    intro = "Follow the variables that are set in the text below.\n"
    question = (
        f"Question: Which variables have the value {value}? "
        f"Answer: The {len(names)} variables with the value {value} are"
    )
    taken = stock.tokens(" ".join([intro, *told, question, " "])) + stock.room(", ".join(names))
    if taken > length:
        return None
    hay = stock.fill(stock.noise(), length - taken)
    context = intro + "\n".join(mixed(told, hay, rng))
    return Sample(name, length, context, question, tuple(names), len(names))


def common_words(stock: Stock, name: str, length: int, rng: np.random.Generator) -> Sample | None:
    """Makes a numbered list of words, and asks for the COMMON that stand there most often."""
    intro = "Some words of the numbered list below stand there more often than others.\n"
    question = (
        f"Question: Which {COMMON} words stand most often in the list? "
        f"Answer: The {COMMON} most frequent words are"
    )

    seed = rng.integers(1 << 32)

    def listed(words: list[str], often: int, seldom: int) -> str:
        items = words[:COMMON] * often + words[COMMON:] * seldom
        # the same order for the same words, which are measured first and then taken
        order = np.random.default_rng(seed).permutation(len(items)).tolist()
        return intro + " ".join(f"{place}. {items[at]}" for place, at in enumerate(order, 1))

    for (often, seldom), (count, *repeats) in zip(REPEATS, EXAMPLES, strict=True):
        shown_words = stock.words(rng, count)
        shown = f"{listed(shown_words, *repeats)}\n{question} {', '.join(shown_words[:COMMON])}\n\n"
        # More words than can fit, since an item has a number, a dot and a word.
        words = stock.words(rng, COMMON + length // (2 * seldom))
        asked = ", ".join(words[:COMMON])
        left = length - stock.tokens(f"{shown}\n{question} ") - stock.room(asked)
        number = _most(
            lambda n, often=often, seldom=seldom, words=words: stock.tokens(
                listed(words[:n], often, seldom)
            ),
            left,
            len(words) + 1,
        )
        context = shown + listed(words[:number], often, seldom)
        # A text of few words cannot fill a list of this length.
        if number > COMMON and 2 * stock.tokens(context) > length:
            return Sample(name, length, context, question, tuple(words[:COMMON]), number)
    return None


def frequent_words(stock: Stock, name: str, length: int, rng: np.random.Generator) -> Sample | None:
    """Makes a text of coded words whose frequencies follow a zeta distribution. The most frequent
    one is dots, and the question asks for the next FREQUENT.
    """
    intro = "Count the words of the coded text below. Its dots are no words.\n"
    question = (
        "Question: Which three words stand most often in the coded text? "
        "Answer: The three most frequent words are"
    )
    words = [DOTS, *letters(rng, max(length // TOKENS_PER_WORD, FREQUENT + 2), 6, LOWER)]
    ranks = np.arange(1, len(words) + 1)

    def coded(number: int) -> list[str]:
        counts = (number * ranks**-ALPHA / ZETA).astype(int)
        return np.repeat(words, counts).tolist()

    seed = rng.integers(1 << 32)

    def text(number: int) -> str:
        items = coded(number)
        # the same order for the same number, which is measured first and then taken
        order = np.random.default_rng(seed).permutation(len(items)).tolist()
        return " ".join(items[at] for at in order)

    outputs = words[1 : FREQUENT + 1]
    left = length - stock.tokens(f"{intro}\n{question} ") - stock.room(", ".join(outputs))
    number = _most(lambda n: stock.tokens(text(n)), left, length)
    # the last word that is asked for must stand more often than the next
    counts = [coded(number).count(word) for word in words[1 : FREQUENT + 2]]
    if counts[FREQUENT - 1] <= counts[FREQUENT]:
        return None
    different = len(set(coded(number)) - {DOTS})
    return Sample(name, length, intro + text(number), question, tuple(outputs), different)


def _most(tokens: Callable[[int], int], budget: int, bound: int) -> int:
    """Returns the largest number below `bound` whose text has at most `budget` tokens, or 0."""
    return max(bisect.bisect_right(range(bound), budget, key=tokens) - 1, 0)
