"""Many sessions on one model: they join and leave a batch of fixed size between steps, and nothing is compiled again.

    engine = Engine(model, params, tokenizer, rows=8)
    session = engine.open("Once upon a time")
    for piece in session.write(max_new_tokens=100):
        print(piece, end="", flush=True)

A session is a value of fixed size, so there may be any number of them; only those that read or write need one of the
engine's rows, and wait where all are taken. What a session writes depends on its own prompt, rules and seed alone. (For the
same number of rows that holds bit for bit, as far as the backend's matrix products compute each row alone; another number
of rows is another program, and rounds differently.)

Any session's iterator drives the engine, from any thread: whoever asks first steps for all. See `Session.stream` for asyncio.
"""

import asyncio
import codecs
import dataclasses
import functools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import UserError
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.infer.snapshot import fingerprint, load_stream, save_stream
from rmat_jax.infer.streams import ROOM, Requests, Streams, begin, call_width, check_tokens, decode, put, read, take
from rmat_jax.infer.text import Stops, as_bytes, pauses
from rmat_jax.model import RMAT, stack_params, unstack_params
from rmat_jax.signals import deferred
from rmat_jax.types import PyTree

AHEAD = 4096  # tokens that a session may have written and nobody has asked for; then it waits
PACE = 0.05  # seconds that a call should take at most: text appears so often, and others may join


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a session writes."""

    max_new_tokens: int | None = 256  # None: without end
    temperature: float = 0.8  # 0: the most likely token each time
    top_k: int = 0  # only the k most likely; 0: all
    top_p: float = 1.0  # only the fewest that together have this probability; 1: all
    seed: int = 0  # the same seed gives the same text, in any company
    stop: Sequence[str | bytes] = ()  # the text ends before any of these

    def __post_init__(self):
        most = self.max_new_tokens
        object.__setattr__(
            self, "stop", tuple(map(as_bytes, [self.stop] if isinstance(self.stop, str | bytes) else self.stop))
        )
        for name, holds, rule in (
            ("max_new_tokens", most is None or 1 <= most < 2**31, "be at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "be a number that is not negative"),
            ("top_k", self.top_k >= 0, "not be negative"),
            ("top_p", 0 < self.top_p <= 1, "lie in (0, 1]"),
            ("seed", 0 <= self.seed < 2**32, "lie in 0..2^32-1"),
            ("stop", all(self.stop), "not hold an empty sequence"),
        ):
            if not holds:
                raise UserError(f"{name}={getattr(self, name)} must {rule}")


class Piece(NamedTuple):
    """What a session wrote in one call."""

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

    def add(self, tokens: np.ndarray, logprobs: np.ndarray, text: bytes, at_end: bool) -> None:
        """What one call wrote. Looks for a stop sequence, and whether this was all."""
        shown, stopped = self.stops.feed(text)
        self.ready.append(Piece(tokens, logprobs, shown))
        self.left -= len(tokens)
        if stopped:
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
        prompts: sessions whose prompts one call reads together. Room that is not used is computed all the same.
        """
        if rows < 1 or prompts < 1:
            raise UserError(f"rows={rows} and prompts={prompts} must be at least 1")
        self.model, self.params, self.tokenizer = model, unstack_params(params), tokenizer
        self._prompts = min(prompts, rows)
        self._streams = begin(model, rows)
        self._seats: list[Session | None] = [None] * rows
        self._wanting: dict[Session, None] = {}  # with work to do, who waited longest first
        self._limit = 4  # tokens of the next call
        self._pause_rows: dict[tuple[bytes, ...], np.ndarray] = {}
        self._pauses: tuple[list, jax.Array] | None = None
        self.lock = threading.RLock()

    def open(self, prompt: str | bytes | Sequence[int] = b"") -> "Session":
        """A new session, at the beginning of a document, which will read `prompt`."""
        session = Session(self, begin(self.model, 1), 0)
        session.read(np.concatenate([[self.tokenizer.end], self._encode(prompt)]))
        return session

    def load(self, file: str | Path) -> "Session":
        """The session that was saved to `file`: it goes on as the saved one would, bit for bit.

        Raises:
            UserError: no such file, damaged, or of another model, tokenizer or weights.
        """
        stream, tokens = load_stream(Path(file), self.model.config, self.fingerprint, self.tokenizer.describe)
        return Session(self, stream, tokens)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells weights apart."""
        return fingerprint(stack_params(self.params))

    def _encode(self, prompt: str | bytes | Sequence[int]) -> np.ndarray:
        tokens = self.tokenizer.encode(as_bytes(prompt)) if isinstance(prompt, str | bytes) else np.asarray(prompt)
        check_tokens(tokens, self.model.config.vocab_size)
        return tokens.astype(np.int32)

    def step(self) -> bool:
        """One call that reads prompts, one that writes, as far as there is something to do; whether there was."""
        with self.lock, deferred():  # the streams are donated: half a step would leave nothing to go on with
            self._seat()
            done = self._read(), self._write()
            for session in filter(None, list(self._seats)):
                if not session._has_work:
                    self._release(session)
            return any(done)

    def _seat(self) -> None:
        for session in [s for s in self._wanting if s._row is None and not s._unfinished]:
            del self._wanting[session]
        free = [row for row, session in enumerate(self._seats) if session is None]
        waiting = [session for session in self._wanting if session._row is None and session._has_work]
        for row, session in zip(free, waiting, strict=False):
            self._streams = put(self._streams, np.array([row]), session._stream)
            self._seats[row], session._row, session._stream = session, row, None

    def _release(self, session: "Session") -> None:
        session._stream = take(self._streams, np.array([session._row]))
        self._seats[session._row], session._row = None, None

    def _read(self) -> bool:
        """The next piece of some prompts. How a prompt is cut depends on itself alone, so that company changes nothing."""

        def width(session):
            return call_width(len(session._unread[0]), self.model.config.chunk_len)

        readers = [session for session in self._wanting if session._row is not None and session._unread]
        if not readers:
            return False
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
        for session, length in zip(readers, lengths_G.tolist(), strict=False):
            session.tokens += length
            rest = session._unread.popleft()[length:]
            if len(rest):
                session._unread.appendleft(rest)
            self._wanting[session] = self._wanting.pop(session)  # to the end: long prompts let others read
        return True

    def _write(self) -> bool:
        """The next tokens of all who write."""
        rows = len(self._seats)
        writers = [session for session in filter(None, self._seats) if session._job and session._job.goes_on]
        writers = [session for session in writers if not session._unread]
        if not writers:
            return False
        left, seed, top_k = np.zeros(rows, np.int32), np.zeros(rows, np.uint32), np.zeros(rows, np.int32)
        temperature, top_p = np.zeros(rows, np.float32), np.ones(rows, np.float32)
        for session in writers:
            row, job = session._row, session._job
            s = job.sampling
            left[row], seed[row], temperature[row], top_k[row], top_p[row] = (
                job.left,
                s.seed,
                s.temperature,
                s.top_k,
                s.top_p,
            )
        requests = Requests(left, seed, temperature, top_k, top_p, self._pauses_of(writers))
        start = time.perf_counter()
        self._streams, written = decode(
            self.model, self.params, self._streams, requests, self._limit, self.tokenizer.end
        )
        written = jax.device_get(written)
        steps = int(written.count_B.max()) or 1
        self._limit = int(np.clip(steps * PACE / (time.perf_counter() - start), 1, min(2 * self._limit, ROOM)))
        for session in writers:
            row, job = session._row, session._job
            count = int(written.count_B[row])
            tokens = written.tokens_BT[row, :count]
            session.tokens += count
            text = self.tokenizer.decode(tokens)
            job.add(tokens, written.logprobs_BT[row, :count], text, bool(written.ended_B[row]))
        return True

    def _pauses_of(self, writers: Sequence["Session"]) -> jax.Array:
        """[rows, V] on the device; sent there when another sequence is looked for."""
        wanted = [()] * len(self._seats)
        for session in writers:
            wanted[session._row] = session._job.sampling.stop
        if self._pauses is None or self._pauses[0] != wanted:
            for stop in wanted:
                if stop not in self._pause_rows:
                    self._pause_rows[stop] = pauses(stop, self.tokenizer, self.model.config.vocab_size)
            self._pauses = wanted, jnp.asarray(np.stack([self._pause_rows[stop] for stop in wanted]))
        return self._pauses[1]


class Session:
    """One stream: `Engine.open` or `Engine.load` makes it."""

    def __init__(self, engine: Engine, stream: Streams, tokens: int):
        self.engine = engine
        self.tokens = tokens  # read so far, those that it wrote among them
        self._stream: Streams | None = stream  # while it has no row
        self._row: int | None = None
        self._unread: deque[np.ndarray] = deque()
        self._job: _Job | None = None

    @property
    def _unfinished(self) -> bool:
        return bool(self._unread) or (self._job is not None and not self._job.ended)

    @property
    def _has_work(self) -> bool:
        return bool(self._unread) or (self._job is not None and self._job.goes_on)

    @property
    def ended(self) -> str:
        """Why the last text ended: "length", "stop", "end" (of the document) or "given up"; "" before that."""
        return self._job.ended if self._job else ""

    @property
    def state_bytes(self) -> int:
        """What the model remembers of a session, whatever it has read."""
        return jax.eval_shape(lambda: self.engine.model.initial_state(1)).num_bytes()

    def read(self, prompt: str | bytes | Sequence[int]) -> None:
        """Takes in text, bytes or token ids of any length; they are read when somebody drives the engine.

        Raises:
            UserError: ids outside the vocabulary.
        """
        tokens = self.engine._encode(prompt)
        with self.engine.lock:
            if len(tokens):
                self._unread.append(tokens)
                self.engine._wanting.setdefault(self)

    def catch_up(self) -> None:
        """Drives the engine until all that was taken in is read."""
        with self.engine.lock:
            while self._unread:
                self.engine.step()

    def write(self, *, errors: str = "replace", **sampling) -> Iterator[str]:
        """Text as it is written, characters whole. Writing begins at once, whoever drives the engine.

        Args:
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`; "surrogateescape" loses nothing.
            sampling: see `Sampling`.
        """
        return self._text(self.write_pieces(**sampling), errors)

    def write_pieces(self, **sampling) -> Iterator[Piece]:
        """The same as tokens, log-probabilities and bytes."""
        job = _Job(Sampling(**sampling))
        with self.engine.lock:
            if not self.tokens and not self._unread:
                raise UserError("the session has read nothing yet; read at least one token first")
            if self._job is not None and not self._job.ended:
                raise UserError("the session is writing already; read that text to its end, or call stop()")
            self._job = job
            self.engine._wanting.setdefault(self)
        return self._pieces(job)

    async def stream(self, **sampling) -> AsyncIterator[str]:
        """`write` for asyncio: the engine works in a thread meanwhile, for all sessions that are waited for."""
        pieces = self.write(**sampling)
        job = self._job
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            job.end("given up")

    def stop(self) -> None:
        """Writes no further than it has come; its iterator ends after that."""
        with self.engine.lock:
            if self._job is not None:
                self._job.end("given up")

    def fork(self) -> "Session":
        """Another session that has read the same, and costs nothing until it goes on."""
        with self.engine.lock:
            return Session(self.engine, self._now(), self.tokens)

    def save(self, file: str | Path) -> None:
        """Writes where the session stands to one safetensors file, whole or not at all.

        Raises:
            UserError: it cannot be written there.
        """
        with self.engine.lock:
            engine = self.engine
            save_stream(
                Path(file), self._now(), engine.model.config, engine.fingerprint, engine.tokenizer.describe, self.tokens
            )

    def _now(self) -> Streams:
        self.catch_up()
        return self._stream if self._row is None else take(self.engine._streams, np.array([self._row]))

    def _pieces(self, job: _Job) -> Iterator[Piece]:
        try:
            while True:
                with self.engine.lock:
                    while not job.ready and not job.ended:
                        self.engine.step()
                    if not job.ready:
                        return
                    piece = job.ready.popleft()
                yield piece
        finally:
            job.end("given up")  # nobody asks any more

    def _text(self, pieces: Iterator[Piece], errors: str) -> Iterator[str]:
        characters = codecs.getincrementaldecoder("utf-8")(errors)
        try:
            for piece in pieces:
                if text := characters.decode(piece.text):
                    yield text
            if text := characters.decode(b"", final=True):
                yield text
        finally:
            pieces.close()
