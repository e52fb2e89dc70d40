"""Reads the stories of bAbI's files (arXiv 1502.05698)."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rmat_jax.errors import UserError
from rmat_jax.files import check_regular

FILES = re.compile(r"qa(\d+)(?:_(.*))?_test\.txt")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of a story."""

    # the number of its story in the file
    story: int
    # the facts that the story tells before it
    facts: tuple[str, ...]
    text: str
    answer: str
    # the length of its text in tokens, as a published file says
    length: int = 0


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
        UserError: there is no such folder, no such file in it, or a line is not bAbI's.
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
            "give bAbI's folder, or BABILong's with files like qa1/4k.json"
        )
    return tasks


def read_stories(file: Path) -> Iterable[Question]:
    """Returns the questions of a file, each with the facts before it in its story.

    Raises:
        UserError: a line is not bAbI's, or there is no question.
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
