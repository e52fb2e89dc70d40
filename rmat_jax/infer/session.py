"""One session: what it has read, what it is writing, and how its text is handed out. `engine` has
the rows and the device.
"""

import codecs
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.snapshot import save_stream
from rmat_jax.infer.streams import Streams
from rmat_jax.infer.text import Stops

if TYPE_CHECKING:
    from rmat_jax.infer.engine import Engine

# tokens that a session may have written and nobody has asked for; then it waits
AHEAD = 256

T = TypeVar("T")


class Piece(NamedTuple):
    """What a session wrote in one step."""

    # [n] ids
    tokens: np.ndarray
    # [n] natural logarithms of the model's probabilities, before temperature and cuts
    logprobs: np.ndarray
    # that is certain to be part of the text: the beginning of a stop sequence is held back
    text: bytes


class Job:
    """A text that is being written."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self.stops = Stops(sampling.stop)
        self.left = 2**31 - 1 if sampling.max_new_tokens is None else sampling.max_new_tokens
        self.ready: deque[Piece] = deque()
        self.ended = ""
        self.error: UserError | None = None

    def add(self, tokens: np.ndarray, logprobs: np.ndarray, text: bytes, at_end: bool) -> None:
        """What one step wrote. Looks for a stop sequence, and whether this was all."""
        shown, stopped = self.stops.feed(text)
        self.ready.append(Piece(tokens, logprobs, shown))
        self.left -= len(tokens)
        if not np.isfinite(logprobs).all():
            self.error = UserError(
                "the model's probabilities are no numbers: its weights hold NaN or infinity"
            )
            self.end("error")
        elif stopped:
            self.ended = "stop"
        elif at_end or not self.left:
            self.end("end" if at_end else "length")

    def end(self, why: str) -> None:
        """There will be no more: what was held back is part of the text after all."""
        if not self.ended:
            self.ended = why
            self.ready.append(
                Piece(np.zeros(0, np.int32), np.zeros(0, np.float32), self.stops.rest())
            )

    @property
    def goes_on(self) -> bool:
        return not self.ended and sum(len(piece.tokens) for piece in self.ready) < AHEAD


class Session:
    """One stream: `Engine.open` or `Engine.load` makes it."""

    def __init__(self, engine: "Engine", stream: Streams, tokens: int):
        self.engine = engine
        # read so far, those that it wrote among them
        self.tokens = tokens
        # while it has no row
        self._stream: Streams | None = stream
        self._row: int | None = None
        # tokens when it took its row
        self._seated_at = 0
        self._unread: deque[np.ndarray] = deque()
        self._job: Job | None = None

    @property
    def _unfinished(self) -> bool:
        return bool(self._unread) or (self._job is not None and not self._job.ended)

    @property
    def _has_work(self) -> bool:
        """Nobody has to ask for what it wrote before it can go on."""
        return bool(self._unread) or (self._job is not None and self._job.goes_on)

    @property
    def ended(self) -> str:
        """Why the last text ended: "length", "stop", "end" (of the document), "given up" or
        "error"; "" before that.
        """
        return self._job.ended if self._job else ""

    @property
    def state_bytes(self) -> int:
        """What the model remembers of a session, whatever it has read."""
        return self.engine._empty.state.num_bytes()

    def read(self, prompt: str | bytes | Sequence[int]) -> None:
        """Takes in text, bytes or token ids of any length; they are read when somebody drives the
        engine.

        Raises:
            UserError: something else, or ids outside the vocabulary.
        """
        tokens = self.engine.encode(prompt)
        with self.engine.books:
            if len(tokens):
                self._unread.append(tokens)
                self.engine._wanting.setdefault(self)

    def catch_up(self) -> None:
        """Drives the engine until all that was taken in is read."""
        self.engine.drive(lambda: not self._unread)

    def write(self, *, errors: str = "replace", **sampling) -> "Writing[str]":
        """Text as it is written, characters whole. Writing begins at once, whoever drives the
        engine.

        While others drive, a session may come up to AHEAD tokens before its iterator. It has read
        them, also if nobody asks for them: `close` the iterator, or call `stop`, and take what
        there is.

        Args:
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`;
                "surrogateescape" loses nothing.
            sampling: see `Sampling`.

        Raises:
            UserError: a rule that cannot be, a session that is writing already, or one that has
                read nothing.
        """
        characters = _characters(errors)
        job = self._begin(Sampling(**sampling))
        return Writing(self._text(job, characters), job)

    def write_pieces(self, **sampling) -> "Writing[Piece]":
        """The same as tokens, log-probabilities and bytes."""
        job = self._begin(Sampling(**sampling))
        return Writing(self._pieces(job), job)

    async def stream(self, *, errors: str = "replace", **sampling) -> AsyncIterator[str]:
        """`write` for asyncio: the engine works in a thread of its own meanwhile, for all sessions
        that are waited for.
        """
        import asyncio

        characters, loop = _characters(errors), asyncio.get_running_loop()
        job = self._begin(Sampling(**sampling))
        try:
            while True:
                while not job.ready and not job.ended:
                    await loop.run_in_executor(self.engine._thread, self._one_step, job)
                piece = self._next(job)
                if text := characters.decode(piece.text if piece else b"", final=piece is None):
                    yield text
                if piece is None:
                    return
        finally:
            job.ended = job.ended or "given up"

    def stop(self) -> None:
        """Writes no further than it has come; its iterator ends after that."""
        with self.engine.books:
            if self._job is not None:
                self._job.end("given up")

    def fork(self, *, forget: bool = False) -> "Session":
        """Another session that has read the same; it shares the arrays, which never change.

        With `forget` its memory is emptied. The open chunk and a sliding window stay, as do the
        probabilities of the very next token, which were made before.
        """
        stream, tokens = self.engine.standing(self)
        return Session(
            self.engine, stream.replace(state=stream.state.forget()) if forget else stream, tokens
        )

    def save(self, file: str | Path) -> None:
        """Writes where the session stands to one safetensors file, whole or not at all.

        Raises:
            UserError: it cannot be written there.
        """
        engine = self.engine
        weights, tokenizer = engine.fingerprint, engine.tokenizer.describe
        stream, tokens = engine.standing(self)
        save_stream(Path(file), stream, engine.model.config, weights, tokenizer, tokens)

    def _begin(self, sampling: Sampling) -> Job:
        # found here and kept, it keeps no other session waiting
        self.engine.pauses_for(sampling.stop)
        with self.engine.books:
            if not self.tokens and not self._unread:
                raise UserError("the session has read nothing yet; read at least one token first")
            if self._job is not None and not self._job.ended:
                raise UserError(
                    "the session is writing already; read that text to its end, or call stop()"
                )
            self._job = Job(sampling)
            self.engine._wanting.setdefault(self)
            return self._job

    def _one_step(self, job: Job) -> None:
        if not job.ready and not job.ended:
            self.engine.step()

    def _next(self, job: Job) -> Piece | None:
        """What is ready; None: there will be no more."""
        with self.engine.books:
            if job.ready:
                return job.ready.popleft()
            if job.error:
                raise job.error
            return None

    def _pieces(self, job: Job) -> Iterator[Piece]:
        while True:
            self.engine.drive(lambda: job.ready or job.ended)
            piece = self._next(job)
            if piece is None:
                return
            if len(piece.tokens) or piece.text:
                yield piece

    def _text(self, job: Job, characters: codecs.IncrementalDecoder) -> Iterator[str]:
        for piece in self._pieces(job):
            if text := characters.decode(piece.text):
                yield text
        if text := characters.decode(b"", final=True):
            yield text


def _characters(errors: str) -> codecs.IncrementalDecoder:
    try:
        codecs.lookup_error(errors)
    except (LookupError, TypeError) as error:
        raise UserError(
            f"errors={errors!r} is no way to decode; try 'replace' or 'surrogateescape'"
        ) from error
    return codecs.getincrementaldecoder("utf-8")(errors)


class Writing(Generic[T]):
    """An iterator over what a session writes. The session stops when nobody holds it any more."""

    def __init__(self, items: Iterator[T], job: Job):
        self._items, self._job = items, job

    def __iter__(self) -> "Writing[T]":
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Writes no further than it has come."""
        self._job.ended = self._job.ended or "given up"

    __del__ = close
