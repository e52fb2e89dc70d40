"""A text that is being written: its rules, what is ready to be handed out, and why it ended."""

from collections import deque
from typing import NamedTuple

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.text import Stops

# A job waits while so many tokens are ready that nobody has asked for.
AHEAD = 256


class Piece(NamedTuple):
    """Holds what a session wrote in one step."""

    # [n] ids
    tokens: np.ndarray
    # [n] natural logarithms of the model's probabilities, before temperature and cuts
    logprobs: np.ndarray
    # These bytes are certain to be part of the text. The beginning of a stop sequence is held back.
    text: bytes


class Job:
    """Keeps the account of one text from the first token to its end.

    `ended` says why the text is over: "length", "stop", "end" (of the document), "given up" or
    "error". It is "" before that.
    """

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        # tokens that may still be written
        self.left = 2**31 - 1 if sampling.max_new_tokens is None else sampling.max_new_tokens
        self.ready: deque[Piece] = deque()
        self.ended = ""
        self.error: UserError | None = None
        self._stops = Stops(sampling.stop)

    def add(self, tokens: np.ndarray, logprobs: np.ndarray, text: bytes, at_end: bool) -> None:
        """Takes in what one step wrote, and ends the text if this was all of it.

        Args:
            tokens: [n] ids.
            logprobs: [n] their log-probabilities.
            text: their bytes.
            at_end: the model ended the document after them.
        """
        shown, stopped = self._stops.feed(text)
        self.ready.append(Piece(tokens, logprobs, shown))
        self.left -= len(tokens)
        if not np.isfinite(logprobs).all():
            self.fail(
                UserError(
                    "the model's probabilities are not finite: its weights hold NaN or infinity"
                )
            )
        elif stopped:
            self.ended = "stop"
        elif at_end or not self.left:
            self.end("end" if at_end else "length")

    def end(self, why: str) -> None:
        """Ends the text. The bytes that were held back are part of it after all."""
        if not self.ended:
            self.ended = why
            rest = self._stops.rest()
            self.ready.append(Piece(np.zeros(0, np.int32), np.zeros(0, np.float32), rest))

    def fail(self, error: UserError) -> None:
        """Ends the text with an error, which is raised after what is ready."""
        self.error = error
        self.end("error")

    def give_up(self) -> None:
        """Ends the text because nobody listens any more. The bytes held back are dropped."""
        self.ended = self.ended or "given up"

    @property
    def goes_on(self) -> bool:
        """Tells whether the model may write more before somebody asks for it."""
        return not self.ended and sum(len(piece.tokens) for piece in self.ready) < AHEAD
