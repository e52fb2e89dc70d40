"""RULER's needle tasks, which hide facts in a haystack and ask for one or several of them."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from rmat_jax.evals.passages import mixed
from rmat_jax.evals.suites.ruler.stock import Sample, Stock


@dataclasses.dataclass(frozen=True)
class Needles:
    """A needle task."""

    # "noise", "essay" or "needles"
    haystack: str
    # kinds of `Stock.names`
    key: str = "word"
    value: str = "number"
    # the number of keys that are told
    keys: int = 1
    # the number of values of each key
    values: int = 1
    # the number of keys that are asked for
    queries: int = 1

    def make(self, stock: Stock, name: str, length: int, rng: np.random.Generator) -> Sample | None:
        """Returns a prompt that fits into `length` tokens with its answer; None if none does."""
        keys = stock.names(rng, self.key, self.keys)
        values = stock.names(rng, self.value, self.keys * self.values)
        told = [
            self.needle(key, value)
            for at, key in enumerate(keys)
            for value in values[at * self.values : (at + 1) * self.values]
        ]
        chosen = rng.permutation(self.keys)[: self.queries].tolist()
        outputs = [
            value for at in chosen for value in values[at * self.values : (at + 1) * self.values]
        ]
        plural = "s" * (len(outputs) > 1)
        intro = f"Remember the hidden {self.value}{plural} in the text below.\n"
        question = self.question([keys[at] for at in chosen], plural)
        taken = stock.tokens(" ".join([intro, *told, question, " "])) + stock.room(
            ", ".join(outputs)
        )
        if taken > length:
            return None
        hay = stock.fill(self.pieces(stock, keys, rng), length - taken)
        order = rng.permutation(len(told)).tolist()
        between = " " if self.haystack == "essay" else "\n"
        context = intro + between.join(mixed([told[at] for at in order], hay, rng))
        others = len(hay) if self.haystack == "needles" else 0
        return Sample(name, length, context, question, tuple(outputs), len(told) + others)

    def needle(self, key: str, value: str) -> str:
        """Returns a fact."""
        return f"The hidden {self.value} of {key} is {value}."

    def question(self, keys: list[str], plural: str) -> str:
        """Returns the question, and the beginning of its answer."""
        of = ", ".join(keys[:-1]) + " and " * (len(keys) > 1) + keys[-1]
        which, verb = ("What are all", "are") if plural else ("What is the", "is")
        noun = f"hidden {self.value}{plural} of {of}"
        return f"Question: {which} {noun}? Answer: The {noun} {verb}"

    def pieces(self, stock: Stock, keys: list[str], rng: np.random.Generator) -> Iterator[str]:
        """Returns the haystack, whose own needles have other keys."""
        if self.haystack == "noise":
            return stock.noise()
        if self.haystack == "essay":
            return stock.essay(rng)
        return self._needles(stock, keys, rng)

    def _needles(self, stock: Stock, keys: list[str], rng: np.random.Generator) -> Iterator[str]:
        while True:
            ((key,), (value,)) = (stock.names(rng, of, 1) for of in (self.key, self.value))
            if key not in keys:
                yield self.needle(key, value)


NEEDLES = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("essay"),
    "niah_single_3": Needles("essay", value="uuid"),
    "niah_multikey_1": Needles("essay", keys=4),
    "niah_multikey_2": Needles("needles"),
    "niah_multikey_3": Needles("needles", key="uuid", value="uuid"),
    "niah_multivalue": Needles("essay", values=4),
    "niah_multiquery": Needles("essay", keys=4, queries=4),
}
