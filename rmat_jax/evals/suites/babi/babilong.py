"""Reads BABILong's files (arXiv 2406.10149), stories with other text between their facts.

A file holds the rows of one task at one length, each with `input` (facts in other text), `question`
and `target`.
"""

import re
from pathlib import Path
from typing import Any

from rmat_jax.errors import UserError
from rmat_jax.evals.records import json_records, record_files
from rmat_jax.evals.suites.babi.stories import Question, Task

# A path names task and length, in any order: data/qa1/4k.json, 4k/qa1-00000-of-00001.parquet,
# qa1_4k.jsonl.
TASK = re.compile(r"(?<![a-z0-9])qa(\d+)(?![a-z0-9])")
LENGTH = re.compile(r"(?<![A-Za-z0-9])(\d+)([kM])(?![A-Za-z0-9])")
UNITS = {"k": 1 << 10, "M": 1 << 20}
FIELDS = ("input", "question", "target")
EXAMPLE = '{"input": "...", "question": "Where is Mary?", "target": "garden"}'


def lengths_of(path: Path) -> dict[tuple[int, int], list[Path]]:
    """Returns the files below a folder by task and length in tokens, both read from their paths.

    If two folders hold the same task at the same length, as in the published repository, the first
    one counts.
    """
    found: dict[tuple[int, int], list[Path]] = {}
    for file in record_files(path):
        name = file.relative_to(path).as_posix()
        task, length = TASK.findall(name), LENGTH.findall(name)
        if task and length:
            number, unit = length[-1]
            of = found.setdefault((int(task[-1]), int(number) * UNITS[unit]), [])
            if not of or of[0].parent == file.parent:
                of.append(file)
    return found


def read_babilong(folder: str, max_tokens: int) -> list[Task]:
    """Returns all tasks of BABILong's files, with the lengths up to `max_tokens`.

    The list is empty if the folder has no such file.

    Raises:
        UserError: a row is not BABILong's, or every length is beyond `max_tokens`.
    """
    root, questions = Path(folder).expanduser(), {}
    files = lengths_of(root)
    for (task, length), of in sorted(files.items()):
        if length > max_tokens:
            continue
        rows = questions.setdefault(task, [])
        for file in of:
            flag = f"babi={folder!r}, {file.relative_to(root)}"
            for where, record in json_records(flag, file, "rows", EXAMPLE):
                rows.append(_question(where, record, len(rows), length))
    if files and not questions:
        raise UserError(
            f"babi={folder!r} has no text of max_tokens={max_tokens} or less; the shortest has "
            f"{min(length for _, length in files):,}; give a larger --max_tokens"
        )
    return [Task(number, f"qa{number}", tuple(of)) for number, of in questions.items()]


def _question(where: str, record: Any, number: int, length: int) -> Question:
    fields = [record.get(name) for name in FIELDS] if isinstance(record, dict) else []
    if not fields or not all(isinstance(text, str) and text.strip() for text in fields):
        raise UserError(f"{where}: a row must have the texts {', '.join(FIELDS)}: {EXAMPLE}")
    text, question, answer = (
        # JSON can hold half a surrogate pair, which is no text
        field.strip().encode(errors="replace").decode()
        for field in fields
    )
    return Question(number, (text,), question, answer, length)
