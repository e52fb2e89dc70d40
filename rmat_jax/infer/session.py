"""One session: takes in prompts, hands out text as it is written, forks, and saves itself."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rmat_jax.errors import UserError
from rmat_jax.infer.job import Job, Piece
from rmat_jax.infer.rows import Rows
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.snapshot import save_stream
from rmat_jax.infer.ticket import Ticket

T = TypeVar("T")


class Session:
    """Gives access to one stream. `Engine.open` or `Engine.load` makes it."""

    def __init__(self, engine: Rows, ticket: Ticket):
        self.engine = engine
        self.ticket = ticket

    @property
    def tokens(self) -> int:
        """Counts the tokens read so far. Those that the session wrote are among them."""
        return self.ticket.tokens

    @property
    def is_behind(self) -> bool:
        """Tells whether the session has been given more than it has read."""
        return bool(self.ticket.unread)

    @property
    def ended(self) -> str:
        """Says why the last text ended, see `Job`. It is "" before that."""
        return self.ticket.job.ended if self.ticket.job else ""

    @property
    def state_bytes(self) -> int:
        """Counts the bytes of a session's state, which does not grow with the text."""
        return self.engine.state_bytes

    def read(self, prompt: str | bytes | Sequence[int]) -> None:
        """Takes in text, bytes or token ids of any length.

        They are read when somebody drives the engine. The id that ends a document begins a new one,
        which sees nothing of what the session has read before.

        Raises:
            UserError: the prompt is something else, or an id is outside the vocabulary.
        """
        self.engine.take_in(self.ticket, self.engine.encode(prompt, first=self.ticket.is_new))

    def catch_up(self) -> None:
        """Drives the engine until all that was taken in is read."""
        self.engine.catch_up(self.ticket)

    def write(self, *, errors: str = "replace", **sampling: Any) -> "Writing[str]":
        """Hands out text as it is written, with whole characters.

        Writing begins at once, whoever drives the engine. While others drive, a session may come
        up to AHEAD tokens before its iterator. It has read these tokens even if nobody takes them.
        `close` the iterator to drop them, or call `stop` and take the rest.

        Args:
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`;
                "surrogateescape" loses nothing.
            **sampling: the fields of `Sampling`.

        Raises:
            UserError: a rule cannot be followed, the session is writing already, or it has read
                nothing.
        """
        characters = _characters(errors)
        job = self.engine.start(self.ticket, Sampling(**sampling))
        return Writing(self._text(job, characters), job)

    def write_pieces(self, **sampling: Any) -> "Writing[Piece]":
        """Hands out the same text as `write`, as tokens, log-probabilities and bytes.

        Use it where the ids or their probabilities matter, or where bytes must not be decoded.
        """
        job = self.engine.start(self.ticket, Sampling(**sampling))
        return Writing(self._pieces(job), job)

    async def stream(self, *, errors: str = "replace", **sampling: Any) -> AsyncIterator[str]:
        """Hands out the same text as `write`, for asyncio.

        The engine works in a thread of its own meanwhile, for all sessions that somebody waits for.
        """
        characters, loop = _characters(errors), asyncio.get_running_loop()
        job = self.engine.start(self.ticket, Sampling(**sampling))
        try:
            while True:
                while not job.ready and not job.ended:
                    await loop.run_in_executor(self.engine.thread, self._one_step, job)
                piece = self.engine.next_piece(job)
                if text := characters.decode(piece.text if piece else b"", final=piece is None):
                    yield text
                if piece is None:
                    return
        finally:
            job.give_up()

    def stop(self) -> None:
        """Ends the text after what is written so far, and with it its iterator."""
        self.engine.stop(self.ticket)

    def fork(self, *, forget: bool = False) -> "Session":
        """Makes another session that has read the same. The arrays are shared, and never change.

        Args:
            forget: empty the memory of the new session. The open chunk and a sliding window stay,
                as do the probabilities of the very next token, which were made before.
        """
        stream, tokens = self.engine.copy(self.ticket)
        stream = stream.replace(state=stream.state.forget()) if forget else stream
        return Session(self.engine, Ticket(stream, tokens))

    def save(self, file: str | Path) -> None:
        """Writes the session's state to one safetensors file, whole or not at all.

        Raises:
            UserError: the file cannot be written there.
        """
        engine = self.engine
        weights, tokenizer = engine.fingerprint, engine.tokenizer.describe
        stream, tokens = engine.copy(self.ticket)
        save_stream(Path(file), stream, engine.model.config, weights, tokenizer, tokens)

    def _one_step(self, job: Job) -> None:
        # Another thread may have made a piece ready in the meantime.
        if not job.ready and not job.ended:
            self.engine.step()

    def _pieces(self, job: Job) -> Iterator[Piece]:
        while True:
            self.engine.drive(lambda: job.ready or job.ended)
            piece = self.engine.next_piece(job)
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
    """Iterates over what a session writes. The session stops when nobody holds the iterator."""

    def __init__(self, items: Iterator[T], job: Job):
        self._items, self._job = items, job

    def __iter__(self) -> "Writing[T]":
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Ends the text after what is written so far."""
        self._job.give_up()

    __del__ = close
