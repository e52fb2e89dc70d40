"""Records as they are published: JSON lines or a JSON list, a file or a folder, perhaps packed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmat_jax.data.formats import unpacked
from rmat_jax.errors import UserError
from rmat_jax.files import check_regular, json_lines

# Of a dialogue set (SGD): it lists services and has no record.
NO_RECORDS = {"schema.json"}


def json_records(flag: str, path: Path, what: str, example: str) -> Iterator[tuple[str, Any]]:
    """Yields the records of a file, or of a folder's *.json, *.jsonl and packed ones, by name.

    Args:
        flag: what the user typed, for errors.
        path: a file or a folder. Each file holds JSON lines, a list of records, or one record, as
            it is or within gzip or Zstandard.
        what: names what is wanted, for errors.
        example: a record.

    Yields:
        Each record with its place for errors.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    try:
        files = [path]
        if path.is_dir():
            files = sorted(
                file
                for file in path.rglob("*.json*")
                if file.is_file() and file.name not in NO_RECORDS
            )
        if not files:
            raise UserError(
                f"{flag} holds no *.json or *.jsonl file; give a file of {what}: {example}"
            )
        for file in files:
            check_regular(file, f"give a file of {what}", "" if path.is_dir() else flag)
            with unpacked(file) as opened:
                data = opened.read()
            where = f"{flag}, {file.relative_to(path)}" if path.is_dir() else flag
            yield from _records(where, data, example)
    except OSError as error:
        raise UserError(
            f"{flag} cannot be read: {error.strerror or error}; give a file or folder of {what}"
        ) from error


def _records(where: str, data: bytes, example: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        advice = f"give a list of records, or one a line: {example}"
        yield from json_lines(data.splitlines(), where, advice)
        return
    several = whole if isinstance(whole, list) else [whole]
    yield from ((f"{where}, record {number}", record) for number, record in enumerate(several, 1))
