"""Reads the body of a request, and takes its fields one by one."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from starlette.requests import Request

from rmat_jax.errors import UserError
from rmat_jax.infer.text import as_bytes
from rmat_jax.serve import limits
from rmat_jax.serve.refusals import Refusal


async def copy_body(request: Request, most: int, out: BinaryIO) -> None:
    """Writes the body to an open file.

    Args:
        request: the request. Nothing has read its body yet.
        most: the most bytes of the body.
        out: the file.

    Raises:
        Refusal: 413, the body is longer; 408, it takes longer than BODY_SECONDS.
    """
    too_long = Refusal(413, f"the body is longer than {most:,} bytes; send less at a time")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > most:
        raise too_long
    size = 0
    try:
        async with asyncio.timeout(limits.BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_long
                out.write(part)
    except TimeoutError:
        message = f"the body took longer than {limits.BODY_SECONDS:g} s; send it faster"
        raise Refusal(408, message, headers={"Connection": "close"}) from None


class Fields:
    """Takes the fields of a JSON object one by one. A field with null counts as missing.

    Every method raises Refusal, 400, where a field is of another type or outside its range.
    """

    def __init__(self, values: dict[str, Any]):
        self._values = {name: value for name, value in values.items() if value is not None}

    def has(self, name: str) -> bool:
        """Tells whether a field is there, and not taken yet."""
        return name in self._values

    def take(self, name: str, default: Any = None) -> Any:
        """Takes a field of any type."""
        return self._values.pop(name, default)

    def text(self, name: str, default: str | None = None) -> str | None:
        """Takes a text."""
        return self._typed(name, default, str, "a text")

    def flag(self, name: str, default: bool = False) -> bool:
        """Takes true or false."""
        return self._typed(name, default, bool, "true or false")

    def whole(self, name: str, default: int | None, least: int, most: int) -> int | None:
        """Takes a whole number from `least` to `most`."""
        value = self.take(name, default)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not default and not (is_whole and least <= value <= most):
            raise wrong(name, value, f"must be a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float) -> float:
        """Takes a number."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(name, value, "must be a number")
        return value

    def texts(self, name: str, most: int, most_bytes: int) -> list[str]:
        """Takes a text, or a list of up to `most` texts, each of up to `most_bytes` bytes."""
        value = self.take(name, [])
        found = [value] if isinstance(value, str) else value
        rule = f"must be a text or a list of up to {most} texts, each of 1 to {most_bytes} bytes"
        if not isinstance(found, list) or len(found) > most:
            raise wrong(name, value, rule)
        for text in found:
            try:
                size = len(as_bytes(text)) if isinstance(text, str) else 0
            except UserError:
                # JSON can spell half a character of UTF-16
                size = 0
            if not 1 <= size <= most_bytes:
                raise wrong(name, value, rule)
        return found

    def end(self, harmless: dict[str, Sequence[Any]], known: str) -> None:
        """Refuses the fields that were not taken.

        Args:
            harmless: fields that may be there with one of these values, which change nothing.
            known: says where the fields are described.
        """
        for name, value in self._values.items():
            if name not in harmless:
                raise Refusal(
                    400,
                    f"{name[:60]} is not supported; leave it out ({known})",
                    param=name[:60],
                    code="unsupported_parameter",
                )
            # false is 0 in Python
            alike = (g for g in harmless[name] if isinstance(g, bool) is isinstance(value, bool))
            if value not in alike:
                good = " or ".join(map(json.dumps, harmless[name]))
                raise wrong(name, value, f"must be {good}, or be left out")

    def _typed(self, name: str, default: Any, kind: type, what: str) -> Any:
        value = self.take(name, default)
        if value is not default and not isinstance(value, kind):
            raise wrong(name, value, f"must be {what}")
        return value


def wrong(name: str, value: Any, rule: str) -> Refusal:
    """Makes the refusal of a field's value."""
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return Refusal(400, f"{name}={shown} {rule}", param=name, code="invalid_value")


async def read_fields(request: Request, most: int) -> Fields:
    """Reads a body of JSON.

    Raises:
        Refusal: 400, the body is no JSON object; 408 and 413 as in `copy_body`.
    """
    body = _Bytes()
    await copy_body(request, most, body)
    try:
        values = json.loads(b"".join(body.parts), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # the message of a RecursionError does not help
        reason = f"{error}" or "it is nested too deeply"
        raise Refusal(400, f"the body is not JSON: {reason}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    return Fields(values)


class _Bytes:
    """Collects what is written to it."""

    def __init__(self):
        self.parts: list[bytes] = []
        self.write: Callable[[bytes], None] = self.parts.append


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
