"""The text before a question of `babi`, by stretch: stretched stories, or published texts."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.drawing import count_name
from rmat_jax.evals.passages import Distractor, stretch
from rmat_jax.evals.suite import Options
from rmat_jax.evals.suites.babi.stories import Task

# the chunks of other text; beyond FAR each stretch is four times as long as the one before
STRETCHES, FAR = (0, 1, 2, 4, 8, 16, 32, 64), 64
# the fewest questions of a stretch beyond FAR
FEWEST = 8


@dataclasses.dataclass(frozen=True)
class Scale:
    """The wording of stretches in reports."""

    # the title of a figure's axis and of a table
    axis: str
    # the words for the shortest stretch
    least: str
    # the head of a column
    label: Callable[[int], str]
    # the words after "up to"
    extent: Callable[[int], str]
    # the words for all stretches, from the shortest to the longest
    span: Callable[[int, int], str]


CHUNKS = Scale(
    axis="other text between the facts (chunks)",
    least="without other text between the facts",
    label=str,
    extent="{} chunks of other text".format,
    span="with {} to {} chunks of other text between the facts".format,
)
TOKENS = Scale(
    axis="length of the text (tokens, as its file says)",
    least="in the shortest texts",
    label=count_name,
    extent=lambda tokens: f"texts of {count_name(tokens)} tokens",
    span=lambda least, most: (
        f"in texts of {f'{count_name(least)} to ' * (least < most)}{count_name(most)} tokens"
    ),
)


class Source(Protocol):
    """A source of the text before questions."""

    scale: Scale

    def stretches(self, task: Task) -> list[int]:
        """Returns the stretches at which a task is asked, the shortest first."""

    def drawn(self, task: Task, stretch: int) -> list[int]:
        """Returns the indices of the questions that are asked at a stretch."""

    def context(self, task: Task, number: int, stretch: int) -> np.ndarray:
        """Returns the token ids of the text before a question."""

    def method(self) -> str:
        """Says in a few sentences what is read before a question."""


class Spread:
    """Facts at random places in other text, as BABILong spreads them.

    Args:
        other: the other text.
        name: the name of the other text, for the report.
        tokenizer: the model's tokenizer.
        chunk_len: the model's chunk length, in tokens.
        options: only `examples`, `seed` and `max_tokens` matter.
    """

    scale = CHUNKS

    def __init__(
        self, other: Distractor, name: str, tokenizer: Tokenizer, chunk_len: int, options: Options
    ):
        self._other, self._name, self._tokenizer = other, name, tokenizer
        self._chunk_len, self._options = chunk_len, options

    def stretches(self, task: Task) -> list[int]:
        return self._stretches()

    def _stretches(self) -> list[int]:
        most, found = self._options.max_tokens // self._chunk_len, list(STRETCHES)
        while found[-1] * 4 <= most:
            found.append(found[-1] * 4)
        return [chunks for chunks in found if chunks <= most]

    def drawn(self, task: Task, stretch: int) -> list[int]:
        most = self._options.examples
        # all stretches beyond FAR cost the same
        count = min(most, max(FEWEST, most * FAR // max(stretch, FAR)))
        order = np.random.default_rng([self._options.seed, task.number])
        return sorted(order.permutation(len(task.questions))[:count].tolist())

    def context(self, task: Task, number: int, stretch_: int) -> np.ndarray:
        # The text of a question does not depend on the other questions.
        rng = np.random.default_rng([self._options.seed, task.number, number, stretch_])
        encode = self._tokenizer.encode
        facts = [encode(f"{fact}\n".encode()) for fact in task.questions[number].facts]
        return stretch(facts, self._other.passage(stretch_ * self._chunk_len, rng), rng)

    def method(self) -> str:
        longest = self._stretches()[-1] * self._chunk_len
        repeats = ", which is shorter and repeats" * (self._other.num_tokens < longest)
        fewer = (
            f" Stretches beyond {FAR} chunks have proportionately fewer questions, "
            f"{FEWEST} at least." * (longest > FAR * self._chunk_len)
        )
        return (
            f"Each question is asked after 0 to {longest:,} tokens of {self._name}{repeats}, with "
            f"the facts at random places in it, in their order.{fewer}"
        )


class Published:
    """The texts of BABILong's files.

    Args:
        name: the name of the files, for the report.
        tokenizer: the model's tokenizer.
        options: only `examples` and `seed` matter.
    """

    scale = TOKENS

    def __init__(self, name: str, tokenizer: Tokenizer, options: Options):
        self._name, self._tokenizer, self._options = name, tokenizer, options

    def stretches(self, task: Task) -> list[int]:
        return sorted({question.length for question in task.questions})

    def drawn(self, task: Task, stretch: int) -> list[int]:
        all_of_it = [i for i, one in enumerate(task.questions) if one.length == stretch]
        order = np.random.default_rng([self._options.seed, task.number, stretch])
        return sorted(order.permutation(all_of_it)[: self._options.examples].tolist())

    def context(self, task: Task, number: int, stretch: int) -> np.ndarray:
        return self._tokenizer.encode(f"{task.questions[number].facts[0]}\n".encode())

    def method(self) -> str:
        return (
            f"Each question is asked after its text in {self._name}, as published, and a line "
            "break, without BABILong's instructions and examples. The length of a text is that in "
            "the name of its file; this model's tokenizer may count differently."
        )
