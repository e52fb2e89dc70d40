"""One line for each failure of Orbax, TensorStore and the file system."""

import errno
import functools
import logging
import re
import sys
import traceback
from typing import Any


@functools.cache
def quieten() -> None:
    """Silences Orbax's logs of a failed read or write, which is raised anyway.

    Orbax would log tracebacks and abandon its other tasks, each of which Python would report. These
    hundreds of lines would hide the one that says what to do.
    """
    report = sys.unraisablehook

    def not_of_orbax(record: logging.LogRecord) -> bool:
        source = record.pathname if record.name == "absl" else record.getMessage()
        if record.exc_info:
            frames = traceback.extract_tb(record.exc_info[2])
            source += "".join(frame.filename for frame in frames)
        return "orbax" not in source and "OCDBT" not in source

    def report_others(unraisable: Any) -> None:
        file = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if "orbax" not in file and str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    logging.getLogger("absl").addFilter(not_of_orbax)
    logging.getLogger("asyncio").addFilter(not_of_orbax)
    sys.unraisablehook = report_others


def denied(error: BaseException | None) -> bool:
    """Whether the file system refused to read. The files may then be intact."""
    codes = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
    while error is not None:
        if getattr(error, "errno", None) in codes or "PERMISSION_DENIED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# patterns in the message of a failed save, each with what to do
_CURES = {
    "No space|quota|too large|EFBIG": "make room or change --workdir",
    "Too many open files": "raise `ulimit -n`",
    "ermission|not permitted|Read-only": "make it writable or change --workdir",
    "arrier|oordination|DEADLINE|UNAVAILABLE|heartbeat": "another process has ended, so start all "
    "of them again",
}


def cure(error: BaseException | None) -> str:
    """Says what to do after a failed save, by the error and its causes."""
    said = ""
    while error is not None:
        said += f"{error} {getattr(error, 'strerror', '')} "
        error = error.__cause__ or error.__context__
    found = (cure for pattern, cure in _CURES.items() if re.search(pattern, said))
    return f"{next(found, 'remove the cause')}; the same command goes on from the step before"


def cause(error: BaseException) -> str:
    """Returns the first cause of an error, in one line."""
    while error.__cause__:
        error = error.__cause__
    text = " ".join(str(error).split(" [tensorstore_spec")[0].split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"
