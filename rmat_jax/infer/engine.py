"""Many sessions on one model: they join and leave a batch of fixed size between steps, and nothing is compiled again.

    engine = Engine(model, params, tokenizer, rows=8)
    session = engine.open("Once upon a time")
    for piece in session.write(max_new_tokens=100):
        print(piece, end="", flush=True)

A session is a value of fixed size, so there may be any number of them; only those that read or write need one of the
engine's rows, and take turns where there are too few. What a session writes depends on its own prompt, rules and seed alone.
(For the same number of rows that holds bit for bit, as far as the backend's matrix products compute each row alone; another
number of rows is another program, and rounds differently.)

Whoever waits for a session drives the engine for all, one step at a time, from any thread. See `Session.stream` for asyncio.
"""

import codecs
import concurrent.futures
import functools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import UserError
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.snapshot import fingerprint, load_stream, save_stream
from rmat_jax.infer.streams import ROOM, Requests, Streams, begin, call_width, check_tokens, decode, put, read, take
from rmat_jax.infer.text import Stops, as_bytes, completes
from rmat_jax.model import RMAT, stack_params, unstack_params
from rmat_jax.signals import deferred
from rmat_jax.types import PyTree

AHEAD = 256  # tokens that a session may have written and nobody has asked for; then it waits
TURN = 256  # tokens after which a session leaves its row if others wait for one
PACE = 0.05  # seconds that writing should take in one step: so often text appears, and others may join

T = TypeVar("T")


class Piece(NamedTuple):
    """What a session wrote in one step."""

    tokens: np.ndarray  # [n] ids
    logprobs: np.ndarray  # [n] natural logarithms of the model's probabilities, before temperature and cuts
    text: bytes  # that is certain to be part of the text: the beginning of a stop sequence is held back


class _Job:
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
            self.error = UserError("the model's probabilities are no numbers: its weights hold NaN or infinity")
            self.end("error")
        elif stopped:
            self.ended = "stop"
        elif at_end or not self.left:
            self.end("end" if at_end else "length")

    def end(self, why: str) -> None:
        """There will be no more: what was held back is part of the text after all."""
        if not self.ended:
            self.ended = why
            self.ready.append(Piece(np.zeros(0, np.int32), np.zeros(0, np.float32), self.stops.rest()))

    @property
    def goes_on(self) -> bool:
        return not self.ended and sum(len(piece.tokens) for piece in self.ready) < AHEAD


class Engine:
    """The rows, and who has them. Safe to use from several threads."""

    def __init__(self, model: RMAT, params: PyTree, tokenizer: Tokenizer, *, rows: int = 8, prompts: int = 4):
        """Args:
        model: the model.
        params: its parameters.
        tokenizer: its own.
        rows: sessions that are read or written at the same time.
        prompts: sessions whose prompts one step reads together. Room that is not used is computed all the same.
        """
        if rows < 1 or prompts < 1:
            raise UserError(f"rows={rows} and prompts={prompts} must be at least 1")
        self.model, self.params, self.tokenizer = model, unstack_params(params), tokenizer
        self._prompts = min(prompts, rows)
        self._streams = begin(model, rows)
        self._empty = begin(model, 1)
        self._seats: list[Session | None] = [None] * rows
        self._wanting: dict[Session, None] = {}  # with work to do, whose turn is next first
        self._limit = 4  # tokens of the next step
        self._pauses: tuple[list, jax.Array] | None = None
        self.pauses_for = functools.lru_cache(maxsize=64)(self._pauses_for)
        self._steps = 0
        self._stepping = False
        self.books = threading.Condition()  # held while the books are written, never while the device works

    def open(self, prompt: str | bytes | Sequence[int] = b"") -> "Session":
        """A new session, at the beginning of a document, which will read `prompt`.

        Raises:
            UserError: neither text nor bytes nor a list of token ids, or ids outside the vocabulary.
        """
        session = Session(self, self._empty, 0)
        session.read(np.concatenate([[self.tokenizer.end], self.encode(prompt)]))
        return session

    def load(self, file: str | Path) -> "Session":
        """The session that was saved to `file`: it goes on as the saved one would, bit for bit in an engine of as many rows.

        Raises:
            UserError: no such file, damaged, or of another model, tokenizer or weights.
        """
        stream, tokens = load_stream(Path(file), self.model.config, self.fingerprint, self.tokenizer.describe)
        return Session(self, stream, tokens)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells weights apart."""
        return fingerprint(stack_params(self.params))

    def encode(self, prompt: str | bytes | Sequence[int]) -> np.ndarray:
        """Token ids of text, bytes or ids. Raises UserError."""
        if isinstance(prompt, str | bytes | bytearray | memoryview):
            return self.tokenizer.encode(as_bytes(prompt))
        try:
            tokens = np.asarray(prompt)
        except ValueError:
            tokens = np.asarray(None)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise UserError(
                f"a prompt must be text, bytes or a list of token ids, not {type(prompt).__name__}: {prompt!r:.60}"
            )
        check_tokens(tokens, self.model.config.vocab_size)
        return tokens.astype(np.int32)

    def step(self) -> None:
        """Some sessions read a piece of their prompts, all that write go on; or waits while another thread does that."""
        with self.books:
            if self._stepping:
                steps = self._steps
                self.books.wait_for(lambda: self._steps != steps)
                return
            self._check_whole()
            self._stepping = True
        try:
            with deferred():  # the streams are donated: half a step would leave nothing to go on with
                self._take_turns()
                self._read()
                self._write()
        finally:
            with self.books:
                self._stepping = False
                self._steps += 1
                self.books.notify_all()

    def drive(self, until: Callable[[], bool]) -> None:
        """Steps until something holds."""
        while not until():
            self.step()

    def standing(self, session: "Session") -> tuple[Streams, int]:
        """Where a session stands, as a row of its own, and the tokens it has read."""
        session.catch_up()
        with self.books:
            self.books.wait_for(lambda: not self._stepping)
            if session._row is None:
                return session._stream, session.tokens
            self._check_whole()
            return take(self._streams, np.array([session._row])), session.tokens

    def _check_whole(self) -> None:
        if self._streams.logits_BV.is_deleted():
            raise UserError("this engine was interrupted within a step and has lost its rows; make another one")

    def _take_turns(self) -> None:
        """Who has nothing to do, or has had a turn, leaves its row; who waits takes it."""
        with self.books:
            self._wanting = {s: None for s in self._wanting if s._unfinished}
            waiting = [s for s in self._wanting if s._row is None and s._has_work]
            seated = [s for s in self._seats if s is not None]
            leaving = [s for s in seated if not s._has_work]
            short = len(waiting) - len(leaving) - (len(self._seats) - len(seated))
            leaving += [s for s in seated if s._has_work and s.tokens - s._seated_at >= TURN][: max(short, 0)]
            for session in leaving:
                session._stream = take(self._streams, np.array([session._row]))
                self._seats[session._row], session._row = None, None
                if session in self._wanting:
                    self._wanting[session] = self._wanting.pop(session)  # to the end
            free = [row for row, session in enumerate(self._seats) if session is None]
            for row, session in zip(free, waiting, strict=False):
                self._streams = put(self._streams, np.array([row]), session._stream)
                self._seats[row], session._row, session._stream = session, row, None
                session._seated_at = session.tokens

    def _read(self) -> None:
        """The next piece of some prompts. How a prompt is cut depends on itself alone, so that company changes nothing."""

        def width(session):
            return call_width(len(session._unread[0]), self.model.config.chunk_len)

        with self.books:
            readers = [session for session in self._wanting if session._row is not None and session._unread]
            if not readers:
                return
            size = width(readers[0])
            readers = [session for session in readers if width(session) == size][: self._prompts]
            index_G = np.full(self._prompts, len(self._seats))  # beyond the last row: nobody
            tokens_GT = np.zeros((self._prompts, size), np.int32)
            lengths_G = np.zeros(self._prompts, np.int32)
            for place, session in enumerate(readers):
                piece = session._unread[0][:size]
                index_G[place], lengths_G[place] = session._row, len(piece)
                tokens_GT[place, : len(piece)] = piece
        self._streams = read(self.model, self.params, self._streams, index_G, tokens_GT, lengths_G)
        jax.block_until_ready(self._streams.logits_BV)
        with self.books:
            for session, length in zip(readers, lengths_G.tolist(), strict=False):
                session.tokens += length
                rest = session._unread.popleft()[length:]
                if len(rest):
                    session._unread.appendleft(rest)
                self._wanting[session] = self._wanting.pop(session)  # to the end: long prompts let others read

    def _write(self) -> None:
        """The next tokens of all who write."""
        rows = len(self._seats)
        with self.books:
            seated = [s for s in filter(None, self._seats) if s._job and s._job.goes_on and not s._unread]
            writers = [(session, session._row, session._job) for session in seated]
            if not writers:
                return
            asked = Requests(
                left_B=np.zeros(rows, np.int32),
                seed_B=np.zeros(rows, np.uint32),
                temperature_B=np.zeros(rows, np.float32),
                top_k_B=np.zeros(rows, np.int32),
                top_p_B=np.ones(rows, np.float32),
                pauses_BV=self._pauses_of(writers),
            )
            for _, row, job in writers:
                asked.left_B[row] = job.left
                asked.seed_B[row], asked.temperature_B[row] = job.sampling.seed, job.sampling.temperature
                asked.top_k_B[row], asked.top_p_B[row] = job.sampling.top_k, job.sampling.top_p
        start, known = time.perf_counter(), min(self.tokenizer.vocab_size, self.model.config.vocab_size)
        self._streams, written = decode(
            self.model, self.params, self._streams, asked, self._limit, self.tokenizer.end, known
        )
        written = jax.device_get(written)
        steps = int(written.count_B.max()) or 1
        self._limit = int(np.clip(steps * PACE / (time.perf_counter() - start), 1, min(2 * self._limit, ROOM)))
        with self.books:
            for session, row, job in writers:
                count = int(written.count_B[row])
                tokens = written.tokens_BT[row, :count]
                session.tokens += count
                text = self.tokenizer.decode(tokens)
                job.add(tokens, written.logprobs_BT[row, :count], text, bool(written.ended_B[row]))

    def _pauses_of(self, writers: Sequence[tuple["Session", int, _Job]]) -> jax.Array:
        """[rows, V] on the device; sent there when another sequence is looked for."""
        wanted = [()] * len(self._seats)
        for _, row, job in writers:
            wanted[row] = job.sampling.stop
        if self._pauses is None or self._pauses[0] != wanted:
            self._pauses = wanted, jnp.asarray(np.stack([self.pauses_for(stop) for stop in wanted]))
        return self._pauses[1]

    def _pauses_for(self, stop: tuple[bytes, ...]) -> np.ndarray:
        """[V] bool: the tokens after which a row must wait until the host has looked for a stop sequence."""
        pauses_V = np.zeros(self.model.config.vocab_size, bool)
        if stop:
            for token, text in enumerate(self._vocabulary[: len(pauses_V)]):
                pauses_V[token] = completes(stop, text)
        return pauses_V

    @functools.cached_property
    def _vocabulary(self) -> list[bytes]:
        return [self.tokenizer.decode([token]) for token in range(self.tokenizer.vocab_size)]

    @functools.cached_property
    def _thread(self) -> concurrent.futures.Executor:
        """In which asyncio's sessions drive: one thread, so that a program's other threads stay free."""
        return concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="rmat_jax engine")


class Session:
    """One stream: `Engine.open` or `Engine.load` makes it."""

    def __init__(self, engine: Engine, stream: Streams, tokens: int):
        self.engine = engine
        self.tokens = tokens  # read so far, those that it wrote among them
        self._stream: Streams | None = stream  # while it has no row
        self._row: int | None = None
        self._seated_at = 0  # tokens when it took its row
        self._unread: deque[np.ndarray] = deque()
        self._job: _Job | None = None

    @property
    def _unfinished(self) -> bool:
        return bool(self._unread) or (self._job is not None and not self._job.ended)

    @property
    def _has_work(self) -> bool:
        """Nobody has to ask for what it wrote before it can go on."""
        return bool(self._unread) or (self._job is not None and self._job.goes_on)

    @property
    def ended(self) -> str:
        """Why the last text ended: "length", "stop", "end" (of the document), "given up" or "error"; "" before that."""
        return self._job.ended if self._job else ""

    @property
    def state_bytes(self) -> int:
        """What the model remembers of a session, whatever it has read."""
        return self.engine._empty.state.num_bytes()

    def read(self, prompt: str | bytes | Sequence[int]) -> None:
        """Takes in text, bytes or token ids of any length; they are read when somebody drives the engine.

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
        """Text as it is written, characters whole. Writing begins at once, whoever drives the engine.

        While others drive, a session may come up to AHEAD tokens before its iterator. It has read them, also if nobody asks
        for them: `close` the iterator, or call `stop`, and take what there is.

        Args:
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`; "surrogateescape" loses nothing.
            sampling: see `Sampling`.

        Raises:
            UserError: a rule that cannot be, a session that is writing already, or one that has read nothing.
        """
        characters = _characters(errors)
        job = self._begin(Sampling(**sampling))
        return Writing(self._text(job, characters), job)

    def write_pieces(self, **sampling) -> "Writing[Piece]":
        """The same as tokens, log-probabilities and bytes."""
        job = self._begin(Sampling(**sampling))
        return Writing(self._pieces(job), job)

    async def stream(self, *, errors: str = "replace", **sampling) -> AsyncIterator[str]:
        """`write` for asyncio: the engine works in a thread of its own meanwhile, for all sessions that are waited for."""
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

    def fork(self) -> "Session":
        """Another session that has read the same; it shares the arrays, which never change."""
        return Session(self.engine, *self.engine.standing(self))

    def save(self, file: str | Path) -> None:
        """Writes where the session stands to one safetensors file, whole or not at all.

        Raises:
            UserError: it cannot be written there.
        """
        engine = self.engine
        weights, tokenizer = engine.fingerprint, engine.tokenizer.describe
        stream, tokens = engine.standing(self)
        save_stream(Path(file), stream, engine.model.config, weights, tokenizer, tokens)

    def _begin(self, sampling: Sampling) -> _Job:
        self.engine.pauses_for(sampling.stop)  # found here and kept, it keeps no other session waiting
        with self.engine.books:
            if not self.tokens and not self._unread:
                raise UserError("the session has read nothing yet; read at least one token first")
            if self._job is not None and not self._job.ended:
                raise UserError("the session is writing already; read that text to its end, or call stop()")
            self._job = _Job(sampling)
            self.engine._wanting.setdefault(self)
            return self._job

    def _one_step(self, job: _Job) -> None:
        if not job.ready and not job.ended:
            self.engine.step()

    def _next(self, job: _Job) -> Piece | None:
        """What is ready; None: there will be no more."""
        with self.engine.books:
            if job.ready:
                return job.ready.popleft()
            if job.error:
                raise job.error
            return None

    def _pieces(self, job: _Job) -> Iterator[Piece]:
        while True:
            self.engine.drive(lambda: job.ready or job.ended)
            piece = self._next(job)
            if piece is None:
                return
            if len(piece.tokens) or piece.text:
                yield piece

    def _text(self, job: _Job, characters: codecs.IncrementalDecoder) -> Iterator[str]:
        for piece in self._pieces(job):
            if text := characters.decode(piece.text):
                yield text
        if text := characters.decode(b"", final=True):
            yield text


def _characters(errors: str) -> codecs.IncrementalDecoder:
    try:
        codecs.lookup_error(errors)
    except (LookupError, TypeError) as error:
        raise UserError(f"errors={errors!r} is no way to decode; try 'replace' or 'surrogateescape'") from error
    return codecs.getincrementaldecoder("utf-8")(errors)


class Writing(Generic[T]):
    """An iterator over what a session writes. The session stops when nobody holds it any more."""

    def __init__(self, items: Iterator[T], job: _Job):
        self._items, self._job = items, job

    def __iter__(self) -> "Writing[T]":
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Writes no further than it has come."""
        self._job.ended = self._job.ended or "given up"

    __del__ = close
