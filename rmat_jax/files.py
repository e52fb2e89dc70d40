"""Files that are written whole or not at all, and JSON lines that say where they are wrong.

May import: errors.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rmat_jax.errors import UserError

# the errors of code that expects other contents than a file has
FAULTS = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Gives a path to write to, which replaces `file` when the block ends without an error.

    A reader sees the old file or the new one, never a part of one. A link stays a link.

    Args:
        file: the file to write, in a folder that exists.

    Raises:
        UserError: the file cannot be written, or it is a folder, a device or a pipe.
    """
    target = _check_file(file)
    # the same suffix, which tells some writers the format
    scratch = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        yield scratch
        scratch.replace(target)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror or error}; "
            "choose a file in a folder that exists and has room"
        ) from error
    finally:
        # it is gone already if all went well
        with contextlib.suppress(OSError):
            scratch.unlink()


def cache_folder(name: str) -> Path | None:
    """A folder that all runs share: ~/.cache/rmat_jax/NAME, or below XDG_CACHE_HOME.

    None where there is no home, as in some containers.
    """
    with contextlib.suppress(RuntimeError):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "rmat_jax" / name
    return None


def write_whole(file: Path, text: str) -> None:
    """Writes a text file in UTF-8; bytes that are not UTF-8 stay as they are. Raises UserError."""
    with replacing(file) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_checked(file: Path, data: str | bytes) -> None:
    """Writes a file, and its digest beside it, as `sha256sum` does. Raises UserError."""
    data = data.encode() if isinstance(data, str) else data
    # a kill between the two leaves a file without a digest, not one with a wrong digest
    _digest_file(file).unlink(missing_ok=True)
    with replacing(file) as scratch:
        scratch.write_bytes(data)
    write_whole(_digest_file(file), f"{hashlib.sha256(data).hexdigest()}  {file.name}\n")


def read_checked(file: Path, remedy: str) -> str:
    """Reads the text that `write_checked` wrote, see `read_checked_bytes`."""
    data = read_checked_bytes(file, remedy)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read ({error}); {remedy}") from error


def read_checked_bytes(file: Path, remedy: str) -> bytes:
    """Reads what `write_checked` wrote. A file without a digest is not checked.

    Args:
        file: the file to read.
        remedy: what to do, for the errors.

    Raises:
        UserError: the file cannot be read, or does not match its digest.
    """
    check_regular(file, remedy)
    try:
        data, digest_file = file.read_bytes(), _digest_file(file)
        digest = digest_file.read_bytes() if digest_file.exists() else None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}); {remedy}") from error
    if digest is not None and digest.split()[:1] != [hashlib.sha256(data).hexdigest().encode()]:
        raise UserError(
            f"{file} is damaged: it is not what {digest_file.name} says; bring back a copy"
        )
    return data


def _digest_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def check_regular(file: Path, remedy: str, name: str = "") -> None:
    """Checks that a file is there, and is no folder, device or pipe.

    Args:
        file: the file to check.
        remedy: what to do, for the errors.
        name: the file's name for the errors, as the user typed it.

    Raises:
        UserError: the file is missing or of another kind, or cannot be examined.
    """
    name = name or f"{file}"
    try:
        if not file.exists():
            raise UserError(f"{name} does not exist; {remedy}")
        kind = "folder" if file.is_dir() else "" if file.is_file() else "device or a pipe"
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; {remedy}") from error
    if kind:
        raise UserError(f"{name} is no file but a {kind}; {remedy}")


@contextlib.contextmanager
def well_formed(what: Any, remedy: str) -> Iterator[None]:
    """Raises UserError where a block fails because a file has other contents than it expects."""
    try:
        yield
    except UserError:
        raise
    except FAULTS as e:
        raise UserError(
            f"{what} holds something else than rmat_jax writes ({type(e).__name__}: "
            f"{' '.join(str(e).split())[:200]}); {remedy}"
        ) from e


def check_writable(*files: Path | None) -> None:
    """Checks that files can be written, before the long work whose results they will hold.

    Raises:
        UserError: there is no such folder, nothing can be written there, or the file is a folder,
            a device or a pipe.
    """
    for file in filter(None, files):
        folder = file.absolute().parent
        if not folder.is_dir():
            raise UserError(
                f"{file} cannot be written: there is no folder {file.parent}; make it first"
            )
        _check_file(file)
        try:
            _try_writing(folder)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written: {error.strerror}; choose a folder that can be written "
                "to"
            ) from error


def make_folder(folder: Path, flag: str = "--out") -> None:
    """Makes a folder before the long work whose results it will hold.

    Args:
        folder: the folder to make, with the folders above it.
        flag: the flag that the user gave it with, for the error.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder)
    except OSError as error:
        raise UserError(
            f"{flag}={folder} cannot be made or written to: {error.strerror}; choose another"
        ) from error


def locked(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed. Returns False if another process holds the lock."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        # a file system without locks
        pass
    return True


def _check_file(file: Path) -> Path:
    """Follows the links of a file to write. Raises UserError where no file can be written."""
    try:
        target = file.resolve()
        is_folder = not file.name or target.is_dir()
        taken = target.exists() and not target.is_file()
    # Python below 3.13 raises RuntimeError for a loop of links
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file} cannot be written: {error}; choose another file") from error
    if is_folder:
        raise UserError(f"{file} cannot be written: it is a folder; give a file in it")
    if taken:
        raise UserError(f"{file} cannot be written: it is a device or a pipe; give a file")
    return target


def _try_writing(folder: Path) -> None:
    tempfile.TemporaryFile(dir=folder).close()


def json_lines(
    lines: Iterable[bytes], name: str, advice: str, left_out: list[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yields the record of each line, with its place for errors. Empty lines are skipped.

    Args:
        lines: the lines of a file.
        name: the file's name, as the user typed it.
        advice: what a line must be, for the errors.
        left_out: a list for the places of lines that are not JSON, which are then no error.

    Raises:
        UserError: a line is not JSON; the message says which.
    """
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            if left_out is not None:
                left_out.append(where)
                continue
            raise UserError(f"{where} is not JSON: {error}; {advice}") from error
        if line.strip():
            yield where, record
