"""Reads published records: JSON lines, a JSON list or parquet, perhaps packed.

They are in a file or in a folder of files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmat_jax.data.formats import PARQUET, kind_of, rows, unpacked
from rmat_jax.errors import UserError
from rmat_jax.files import check_regular, json_lines

# A file of the dialogue set SGD, which lists services and has no record.
NO_RECORDS = {"schema.json"}


def record_files(path: Path) -> list[Path]:
    """Returns the files of a folder that may hold records, by name.

    Hidden files and folders, such as caches, are left out.
    """
    return sorted(
        file
        for ending in ("*.json*", "*.parquet*")
        for file in path.rglob(ending)
        if file.is_file()
        and file.name not in NO_RECORDS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def json_records(flag: str, path: Path, what: str, example: str) -> Iterator[tuple[str, Any]]:
    """Yields the records of a file, or of a folder's *.json, *.jsonl, *.parquet and packed ones.

    The files of a folder are read by name.

    Args:
        flag: the flag as the user typed it, for errors.
        path: a file or a folder. Each file holds JSON lines, a list of records, or one record,
            perhaps packed with gzip or Zstandard, or it is parquet.
        what: the name of the records, for errors.
        example: an example of a record, for errors.

    Yields:
        Each record with its place for errors.

    Raises:
        UserError: there is no record, or one cannot be read.
    """
    try:
        files = record_files(path) if path.is_dir() else [path]
        if not files:
            raise UserError(
                f"{flag} holds no *.json, *.jsonl or *.parquet file; "
                f"give a file of {what}: {example}"
            )
        for file in files:
            check_regular(file, f"give a file of {what}", "" if path.is_dir() else flag)
            with unpacked(file) as opened:
                data = opened.read()
            where = f"{flag}, {file.relative_to(path)}" if path.is_dir() else flag
            if data.startswith(PARQUET):
                yield from rows(file, kind_of(file))
                continue
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
