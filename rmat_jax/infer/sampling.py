"""The rules by which a session writes, and their checks. They need no JAX."""

import dataclasses
import operator
from collections.abc import Sequence

from rmat_jax.errors import UserError
from rmat_jax.infer.text import as_bytes


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The rules by which a session writes.

    Raises:
        UserError: a value breaks its rule.
    """

    # the most tokens of a text; None: no end
    max_new_tokens: int | None = 256
    # 0: the most likely token each time
    temperature: float = 0.8
    # only the k most likely tokens; 0: all
    top_k: int = 0
    # only the fewest tokens that together have this probability; 1: all
    top_p: float = 1.0
    # the same seed gives the same text, whatever other sessions do
    seed: int = 0
    # the text ends before any of these
    stop: Sequence[str | bytes] = ()

    def __post_init__(self):
        if self.max_new_tokens is not None:
            self._integer("max_new_tokens", 1, 2**31 - 1)
        self._integer("top_k", 0, 2**31 - 1)
        self._integer("seed", 0, 2**32 - 1)
        self._number("temperature", lambda t: 0 <= t < 1e6, "be a number from 0 to a million")
        self._number("top_p", lambda p: 0 < p <= 1, "lie in (0, 1]")
        stop = [self.stop] if isinstance(self.stop, str | bytes) else self.stop
        if not isinstance(stop, Sequence) or not all(
            isinstance(s, str | bytes) and s for s in stop
        ):
            raise UserError(f"stop={self.stop!r} must be texts, none of them empty")
        object.__setattr__(self, "stop", tuple(map(as_bytes, stop)))

    def _integer(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        try:
            holds = least <= operator.index(value) <= most
        except TypeError:
            holds = False
        if not holds:
            raise UserError(f"{name}={value!r} must be an integer from {least} to {most}")

    def _number(self, name: str, rule, text: str) -> None:
        value = getattr(self, name)
        try:
            holds = rule(float(value))
        except (TypeError, ValueError, OverflowError):
            holds = False
        if not holds:
            raise UserError(f"{name}={value!r} must {text}")
