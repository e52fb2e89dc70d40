"""What Orbax, TensorStore and the file system make of a failure, told in one line."""

import errno
import functools
import logging
import re
import sys
import traceback
from typing import Any


@functools.cache
def quieten() -> None:
    """A read or write that fails is raised to us, once. Orbax logs it besides, with tracebacks, and
    abandons what else was under way, which Python then reports piece by piece: hundreds of lines
    around the one that says what to do.
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
    """Whether the file system refused to read: that says nothing of what is written there."""
    codes = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
    while error is not None:
        if getattr(error, "errno", None) in codes or "PERMISSION_DENIED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# of what a failed save says
_CURES = {
    "No space|quota|too large|EFBIG": "make room or change --workdir",
    "Too many open files": "raise `ulimit -n`",
    "ermission|not permitted|Read-only": "make it writable or change --workdir",
    "arrier|oordination|DEADLINE|UNAVAILABLE|heartbeat": "another process has ended: start all "
    "of them again",
}


def cure(error: BaseException | None) -> str:
    """What to do after a failed save, by its causes."""
    said = ""
    while error is not None:
        said += f"{error} {getattr(error, 'strerror', '')} "
        error = error.__cause__ or error.__context__
    found = (cure for pattern, cure in _CURES.items() if re.search(pattern, said))
    return f"{next(found, 'mend that')}; the same command goes on from the step before"


def cause(error: BaseException) -> str:
    """What first went wrong, in one line."""
    while error.__cause__:
        error = error.__cause__
    text = " ".join(str(error).split(" [tensorstore_spec")[0].split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"
