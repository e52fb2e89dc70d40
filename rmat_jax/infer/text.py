"""Turns written bytes into text: stop sequences, and text as bytes."""

from collections.abc import Sequence

from rmat_jax.errors import UserError


class Stops:
    """Looks for stop sequences in bytes as they come.

    It holds back the last bytes while they may be the beginning of a sequence.
    """

    def __init__(self, sequences: Sequence[bytes]):
        self._sequences = tuple(sequences)
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Takes in more bytes.

        Returns:
            The bytes that are certain to stand before any sequence, and whether one is complete.
        """
        self._held += data
        found = [at for s in self._sequences if (at := self._held.find(s)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], b""
            return shown, True
        begun = (
            length
            for s in self._sequences
            for length in range(min(len(s) - 1, len(self._held)), 0, -1)
            if self._held.endswith(s[:length])
        )
        return self._release(len(self._held) - max(begun, default=0)), False

    def rest(self) -> bytes:
        """Returns the bytes that were held back, when no more will come."""
        return self._release(len(self._held))

    def _release(self, count: int) -> bytes:
        shown, self._held = self._held[:count], self._held[count:]
        return shown


def completes(sequences: Sequence[bytes], token: bytes) -> bool:
    """Tells whether a stop sequence may become complete in this token.

    The token holds a sequence then, or begins with the end of one.
    """
    return any(
        s in token
        or any(token.startswith(s[-length:]) for length in range(1, min(len(s), len(token)) + 1))
        for s in sequences
    )


def as_bytes(text: str | bytes) -> bytes:
    """Encodes text as UTF-8, and leaves bytes as they are.

    Bytes that a shell passed on as escapes in a text become the same bytes again.

    Raises:
        UserError: the text holds a character that UTF-8 cannot encode.
    """
    try:
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{text!r} is no text that UTF-8 can encode: {error.reason}; give bytes"
        ) from error
