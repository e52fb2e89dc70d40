"""Reads a file of data: one text, or rows, each with a text in one of its fields.

Files of comma- or tab-separated values end in .csv or .tsv. A file's first bytes tell all other
formats: JSON lines, parquet, Arrow (the files of Hugging Face `datasets`), and gzip or Zstandard
around any of these. A file that is none of these, and no text, is refused.
"""

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rmat_jax.data.messages import dialogue_of, is_dialogue
from rmat_jax.errors import UserError, install
from rmat_jax.files import json_lines

# the bytes at the beginning of a file that tell its kind
HEAD = 1 << 16
# formats that are not read here, by their first bytes
OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"%PDF": "a PDF",
}
GZIP, ZSTD, PARQUET, ARROW = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xff\xff\xff\xff"
BOM = b"\xef\xbb\xbf"
AS_TEXT = "data.format=text reads it as it is"


class Kind(NamedTuple):
    """How a file is read."""

    # "text", "json", "csv", "tsv", "parquet" or "arrow"
    holds: str
    # "", "gzip" or "zstd"
    packed: str = ""

    @property
    def rows(self) -> bool:
        """Whether it has many documents, one a row."""
        return self.holds != "text"


def kind_of(file: Path) -> Kind:
    """Tells the kind of a file by its name and its first bytes.

    Raises:
        UserError: the file holds neither text nor rows.
    """
    head, packed = _head(file, ""), ""
    for name, magic in (("gzip", GZIP), ("zstd", ZSTD)):
        if head.startswith(magic):
            head, packed = _head(file, name), name
    inner = file.with_suffix("") if packed and file.suffix in (".gz", ".zst", ".zstd") else file
    for magic, holds in ((PARQUET, "parquet"), (ARROW, "arrow")):
        if head.startswith(magic):
            return Kind(holds, packed)
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            raise UserError(f"{file} is {what}; unpack it, or {AS_TEXT}")
    if b"\0" in head:
        place = head.index(b"\0")
        raise UserError(
            f"{file} is no text: byte {place} is 0; leave it out with data.pattern, or {AS_TEXT}"
        )
    if inner.suffix.lower() in (".csv", ".tsv"):
        return Kind(inner.suffix.lower()[1:], packed)
    line = head.removeprefix(BOM).lstrip().split(b"\n", 1)[0]
    if line.startswith((b"{", b"[")) and (found := _json(line)) is not None:
        if isinstance(found, dict):
            return Kind("json", packed)
        raise UserError(f"{file} is one JSON list; write a record a line, or {AS_TEXT}")
    if inner.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        raise UserError(
            f"{file} holds no JSON lines: its first line is no record; write a record a line, "
            f"leave it out with data.pattern, or {AS_TEXT}"
        )
    return Kind("text", packed)


def documents(
    file: Path, kind: Kind, feature: str = "", *, messages: bool = False
) -> Iterator[bytes]:
    """The texts of a file, in order. Rows without text are left out.

    Args:
        file: the file to read.
        kind: the file's kind, see `kind_of`.
        feature: the field that holds the text; "": the only field of text, or "text".
        messages: rows are dialogues, see `messages.py`.

    Raises:
        UserError: the file cannot be read, is not of this kind, or lacks the field. The message
            says where.
    """
    with _told(file):
        if messages and not kind.rows:
            raise UserError(
                f"{file} has no records; data.format=messages takes JSON lines, CSV, parquet or "
                "Arrow; leave it out with data.pattern"
            )
        if not kind.rows:
            with _opened(file, kind.packed) as opened:
                yield opened.read()
            return
        for where, row in rows(file, kind):
            if messages:
                yield dialogue_of(where, row, feature)
                continue
            feature = feature or _only_text(where, row)
            if feature not in row:
                raise UserError(
                    f"{where} has no field {feature!r}; it has {', '.join(map(str, row))}; set "
                    "data.feature to the one that holds the text"
                )
            text = row[feature]
            if not isinstance(text, (str, bytes, type(None))):
                raise UserError(
                    f"{where}: field {feature!r} holds {type(text).__name__}, not text; set "
                    f"data.feature to another{_or_messages(row)}"
                )
            if text:
                yield text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _only_text(where: str, row: Mapping[str, Any]) -> str:
    texts = [name for name, value in row.items() if isinstance(value, (str, bytes))]
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        raise UserError(
            f"{where} has {len(texts)} fields of text; set data.feature to one of "
            f"{', '.join(map(str, row)) or 'its fields'}{_or_messages(row)}"
        )
    return texts[0]


Rows = Iterator[tuple[str, Mapping[str, Any]]]


def rows(file: Path, kind: Kind) -> Rows:
    """The rows of a file, each with its place for errors.

    Args:
        file: the file to read.
        kind: the file's kind, see `kind_of`; not "text".

    Raises:
        UserError: the file cannot be read, or is not of this kind.
    """
    read = {"json": _json_rows, "parquet": _arrow_rows, "arrow": _arrow_rows}
    with _told(file):
        yield from read.get(kind.holds, _csv_rows)(file, kind)


@contextlib.contextmanager
def unpacked(file: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, without the gzip or Zstandard around it.

    Raises:
        UserError: the packed file is damaged.
    """
    head = _head(file, "")
    packed = "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else ""
    with contextlib.ExitStack() as stack:
        if packed:
            stack.enter_context(_told(file))
        yield stack.enter_context(_opened(file, packed))


def _or_messages(row: Mapping[str, Any]) -> str:
    return ", or data.format=messages, which learns the answers alone" * is_dialogue(row)


def _json_rows(file: Path, kind: Kind) -> Rows:
    with _opened(file, kind.packed) as opened:
        lines = (line.removeprefix(BOM) for line in opened)
        for where, row in json_lines(lines, f"{file}", f"write a record a line, or {AS_TEXT}"):
            if not isinstance(row, dict):
                raise UserError(f"{where} is no record; write {{...}} a line, or {AS_TEXT}")
            yield where, row


def _csv_rows(file: Path, kind: Kind) -> Rows:
    with _opened(file, kind.packed) as opened:
        text = io.TextIOWrapper(opened, "utf-8-sig", "surrogateescape", newline="")
        csv.field_size_limit(1 << 30)
        delimiter = {"csv": ",", "tsv": "\t"}[kind.holds]
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            # more values than names, or fewer
            if None in row or None in row.values():
                raise UserError(f"{where} has not as many values as the first line has names")
            yield where, {k: v.encode("utf-8", "surrogateescape") for k, v in row.items()}


def _arrow_rows(file: Path, kind: Kind) -> Rows:
    number = 0
    for batch in _batches(file, kind):
        for row in batch.to_pylist():
            number += 1
            yield f"{file}, row {number}", row


def _batches(file: Path, kind: Kind) -> Iterator[Any]:
    arrow = _arrow(file)
    if kind.holds == "parquet":
        from pyarrow import parquet

        with _opened(file, kind.packed) as opened:
            # parquet is read from its end, which a compressed file does not allow
            source = arrow.BufferReader(opened.read()) if kind.packed else opened
            yield from parquet.ParquetFile(source).iter_batches(1024)
        return
    with _opened(file, kind.packed) as opened, arrow.ipc.open_stream(opened) as stream:
        yield from stream


def _head(file: Path, packed: str) -> bytes:
    with _told(file), _opened(file, packed) as opened:
        return opened.read(HEAD)


def _opened(file: Path, packed: str) -> BinaryIO:
    if packed == "gzip":
        return gzip.open(file)
    if packed == "zstd":
        # closes the stream that it reads
        return io.BufferedReader(_Zstd(_arrow(file).input_stream(f"{file}", compression="zstd")))
    return file.open("rb")


class _Zstd(io.RawIOBase):
    """A pyarrow stream as a Python stream."""

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        found = self._stream.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def _arrow(file: Path) -> Any:
    try:
        import pyarrow.ipc
    except ModuleNotFoundError:
        raise UserError(f"{file} needs a package; run: {install('pyarrow')}") from None
    return pyarrow


def _json(line: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)
    return None


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turns what readers raise for unreadable or damaged files into a UserError."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        # the errors of pyarrow are ValueErrors or OSErrors
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} cannot be read: {cause}; bring back a copy, change its mode, or leave it out "
            "with data.pattern"
        ) from error
