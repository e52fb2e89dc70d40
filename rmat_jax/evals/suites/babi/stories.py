"""The stories of `babi`, and other text that is put between their facts.

The files are those of bAbI (arXiv 1502.05698). Other text stands between facts as in BABILong
(arXiv 2406.10149).
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.files import check_regular

FILES = re.compile(r"qa(\d+)(?:_(.*))?_test\.txt")
# A sentence ends after its mark and the white space behind it, or with its line. One without an
# end is cut.
SENTENCE = re.compile(rb".{1,400}?(?:[.!?][\"')\]]*\s+|\n\s*|\Z)|.{400}", re.DOTALL)
# of other text; so much is enough, and quickly encoded
DISTRACTOR_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of a story."""

    # number of its story in the file
    story: int
    # what was told before it
    facts: tuple[str, ...]
    text: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A file of questions."""

    number: int
    name: str
    questions: tuple[Question, ...]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Every answer in the file, each once."""
        return tuple(sorted({question.answer for question in self.questions}))

    @property
    def majority(self) -> str:
        """The most frequent answer."""
        counts = Counter(question.answer for question in self.questions)
        return max(sorted(counts), key=counts.__getitem__)


def read_tasks(folder: str | None) -> list[Task]:
    """Returns all tasks of a folder of bAbI's files, by number.

    Raises:
        UserError: no such folder, no such file in it, or a line that is not bAbI's.
    """
    if not folder:
        raise UserError(
            f"babi={folder!r} must name a folder of bAbI files, qa1_..._test.txt and so on"
        )
    try:
        files = {
            int(match[1]): file
            for file in Path(folder).expanduser().iterdir()
            if (match := FILES.fullmatch(file.name))
        }
        tasks = []
        for number, file in sorted(files.items()):
            name = (FILES.fullmatch(file.name)[2] or "").replace("-", " ")
            tasks.append(Task(number, f"qa{number} {name}".strip(), tuple(read_stories(file))))
    except OSError as error:
        reason = f"{error.filename} cannot be read: {error.strerror}"
        raise UserError(f"babi={folder!r}: {reason}; give a folder of bAbI files") from error
    if not tasks:
        raise UserError(
            f"babi={folder!r} has no file named like qa1_single-supporting-fact_test.txt; "
            "give bAbI's folder"
        )
    return tasks


def read_stories(file: Path) -> Iterable[Question]:
    """Returns the questions of a file, each with the facts before it in its story.

    Raises:
        UserError: a line that is not bAbI's, or no question.
    """
    check_regular(file, "give bAbI's files")
    questions, story, facts, last = [], -1, [], 0
    for count, line in enumerate(file.read_bytes().decode(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        number, _, text = line.strip().partition(" ")
        if not number.isdecimal() or not text or int(number) not in (1, last + 1):
            raise UserError(
                f"{file}, line {count}: {line!r:.60} must begin with 1 or {last + 1} and go on "
                "with text; give bAbI's files"
            )
        last = int(number)
        if last == 1:
            story, facts = story + 1, []
        if "\t" not in text:
            facts.append(text.strip())
            continue
        question, answer, *_ = (part.strip() for part in text.split("\t"))
        if not question or not answer or not facts:
            raise UserError(
                f"{file}, line {count}: {line!r:.60} must have facts before it, a question and "
                "its answer"
            )
        questions.append(Question(story, tuple(facts), question, answer))
    if not questions:
        raise UserError(
            f"{file} has no question, a line like '3 Where is John? \\thallway\\t1'; "
            "give bAbI's files"
        )
    return questions


class Distractor:
    """Text to put between facts, sentence by sentence.

    Args:
        texts: the first DISTRACTOR_BYTES of them are used.
        tokenizer: of the model.

    Raises:
        UserError: there is no text.
    """

    def __init__(self, texts: Iterable[bytes], tokenizer: Tokenizer):
        self._sentences: list[np.ndarray] = []
        room = DISTRACTOR_BYTES
        for text in texts:
            self._sentences += [
                tokenizer.encode(match[0])
                for match in SENTENCE.finditer(text[:room])
                if match[0].strip()
            ]
            room -= len(text)
            if room <= 0:
                break
        self.num_tokens = sum(map(len, self._sentences))
        if not self.num_tokens:
            raise UserError(
                "there is no text to put between the facts, or only white space; "
                "give --text=FILE, a long one"
            )

    def passage(self, tokens: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns sentences that follow each other, of exactly so many tokens together.

        The first sentence may be cut. The text begins again where it ends.
        """
        place, found = int(rng.integers(len(self._sentences))), []
        while tokens > 0:
            found.append(self._sentences[place % len(self._sentences)][-tokens:])
            tokens, place = tokens - len(found[-1]), place - 1
        return found[::-1]


def stretch(
    facts: Sequence[np.ndarray], passage: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Puts the facts, in their order, at random places between the sentences of the passage.

    Args:
        facts: token ids of each.
        passage: token ids of each sentence.
        rng: draws the places.

    Returns:
        The token ids of all of it.
    """
    places = np.sort(rng.integers(len(passage) + 1, size=len(facts)))
    cuts = [0, *places.tolist(), len(passage)]
    parts = []
    for index, fact in enumerate(facts):
        parts += [*passage[cuts[index] : cuts[index + 1]], fact]
    return np.concatenate([*parts, *passage[cuts[-2] :]])
