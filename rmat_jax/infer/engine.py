"""Many sessions on one model: they join and leave a batch of fixed size between steps, and nothing
is compiled again.

    engine = Engine(model, params, tokenizer, rows=8)
    session = engine.open("Once upon a time")
    for piece in session.write(max_new_tokens=100):
        print(piece, end="", flush=True)

A session is a value of fixed size, so there may be any number of them; only those that read or
write need one of the engine's rows, and take turns where there are too few. What a session writes
depends on its own prompt, rules and seed alone. (For the same number of rows that holds bit for
bit, as far as the backend's matrix products compute each row alone; another number of rows is
another program, and rounds differently.)

Whoever waits for a session drives the engine for all, one step at a time, from any thread. See
`Session.stream` for asyncio.
"""

import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.infer.scoring import Cost, continuations
from rmat_jax.infer.session import Job, Session
from rmat_jax.infer.snapshot import fingerprint, load_stream
from rmat_jax.infer.streams import (
    ROOM,
    Requests,
    Streams,
    begin,
    call_width,
    check_tokens,
    decode,
    put,
    read,
    take,
)
from rmat_jax.infer.text import as_bytes, completes
from rmat_jax.model import RMAT, stack_params, unstack_params
from rmat_jax.signals import deferred
from rmat_jax.types import PyTree

# tokens after which a session leaves its row if others wait for one
TURN = 256
# seconds that writing should take in one step: so often text appears, and others may join
PACE = 0.05


class Engine:
    """The rows, and who has them. Safe to use from several threads."""

    def __init__(
        self, model: RMAT, params: PyTree, tokenizer: Tokenizer, *, rows: int = 8, prompts: int = 4
    ):
        """Args: model: the model. params: its parameters. tokenizer: its own. rows: sessions that
        are read or written at the same time. prompts: sessions whose prompts one step reads
        together. Room that is not used is computed all the same.
        """
        if rows < 1 or prompts < 1:
            raise UserError(f"rows={rows} and prompts={prompts} must be at least 1")
        self.model, self.params, self.tokenizer = model, unstack_params(params), tokenizer
        self._prompts = min(prompts, rows)
        self._streams = begin(model, rows)
        self._empty = begin(model, 1)
        self._seats: list[Session | None] = [None] * rows
        # with work to do, whose turn is next first
        self._wanting: dict[Session, None] = {}
        # tokens of the next step
        self._limit = 4
        self._pauses: tuple[list, jax.Array] | None = None
        self.pauses_for = functools.lru_cache(maxsize=64)(self._pauses_for)
        self._steps = 0
        self._stepping = False
        # held while the books are written, never while the device works
        self.books = threading.Condition()

    def open(self, prompt: str | bytes | Sequence[int] = b"") -> Session:
        """A new session, at the beginning of a document, which will read `prompt`.

        Raises:
            UserError: neither text nor bytes nor a list of token ids, or ids outside the
                vocabulary.
        """
        session = Session(self, self._empty, 0)
        session.read(np.concatenate([[self.tokenizer.end], self.encode(prompt)]))
        return session

    def load(self, file: str | Path) -> Session:
        """The session that was saved to `file`: it goes on as the saved one would, bit for bit in
        an engine of as many rows.

        Raises:
            UserError: no such file, damaged, or of another model, tokenizer or weights.
        """
        stream, tokens = load_stream(
            Path(file), self.model.config, self.fingerprint, self.tokenizer.describe
        )
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
        """Some sessions read a piece of their prompts, all that write go on; or waits while another
        thread does that.
        """
        with self.books:
            if self._stepping:
                steps = self._steps
                self.books.wait_for(lambda: self._steps != steps)
                return
            self._check_whole()
            self._stepping = True
        try:
            # the streams are donated: half a step would leave nothing to go on with
            with deferred():
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

    def standing(self, session: Session) -> tuple[Streams, int]:
        """Where a session stands, as a row of its own, and the tokens it has read."""
        session.catch_up()
        with self.books:
            self.books.wait_for(lambda: not self._stepping)
            if session._row is None:
                return session._stream, session.tokens
            self._check_whole()
            return take(self._streams, np.array([session._row])), session.tokens

    def costs(self, asked: Sequence[tuple[Session, str | bytes | Sequence[int]]]) -> list[Cost]:
        """What each text would cost as its session's next; the sessions stay where they are, and
        may come up repeatedly.

        Raises:
            UserError: an empty text, or ids outside the vocabulary.
        """
        texts = [self.encode(text) for _, text in asked]
        if not all(map(len, texts)):
            raise UserError("an empty text costs nothing; ask for at least one token")
        rows = [self.standing(session)[0] for session, _ in asked]
        found: list[Cost] = []
        for at in range(0, len(asked), self._prompts):
            group, part = rows[at : at + self._prompts], texts[at : at + self._prompts]
            # filled with the last: one program for any number
            room = self._prompts - len(group)
            streams = _side_by_side(group + group[-1:] * room)
            found += continuations(self.model, self.params, streams, part + part[-1:] * room)[
                : len(part)
            ]
        return found

    def _check_whole(self) -> None:
        if self._streams.logits_BV.is_deleted():
            raise UserError(
                "this engine was interrupted within a step and has lost its rows; make another one"
            )

    def _take_turns(self) -> None:
        """Who has nothing to do, or has had a turn, leaves its row; who waits takes it."""
        with self.books:
            self._wanting = {s: None for s in self._wanting if s._unfinished}
            waiting = [s for s in self._wanting if s._row is None and s._has_work]
            seated = [s for s in self._seats if s is not None]
            leaving = [s for s in seated if not s._has_work]
            short = len(waiting) - len(leaving) - (len(self._seats) - len(seated))
            leaving += [s for s in seated if s._has_work and s.tokens - s._seated_at >= TURN][
                : max(short, 0)
            ]
            for session in leaving:
                session._stream = take(self._streams, np.array([session._row]))
                self._seats[session._row], session._row = None, None
                if session in self._wanting:
                    # to the end
                    self._wanting[session] = self._wanting.pop(session)
            free = [row for row, session in enumerate(self._seats) if session is None]
            for row, session in zip(free, waiting, strict=False):
                self._streams = put(self._streams, np.array([row]), session._stream)
                self._seats[row], session._row, session._stream = session, row, None
                session._seated_at = session.tokens

    def _read(self) -> None:
        """The next piece of some prompts. How a prompt is cut depends on itself alone, so that
        company changes nothing.
        """

        def width(session):
            return call_width(len(session._unread[0]), self.model.config.chunk_len)

        with self.books:
            readers = [
                session for session in self._wanting if session._row is not None and session._unread
            ]
            if not readers:
                return
            size = width(readers[0])
            readers = [session for session in readers if width(session) == size][: self._prompts]
            # beyond the last row: nobody
            index_G = np.full(self._prompts, len(self._seats))
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
                # to the end: long prompts let others read
                self._wanting[session] = self._wanting.pop(session)

    def _write(self) -> None:
        """The next tokens of all who write."""
        rows = len(self._seats)
        with self.books:
            seated = [
                s for s in filter(None, self._seats) if s._job and s._job.goes_on and not s._unread
            ]
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
                asked.seed_B[row], asked.temperature_B[row] = (
                    job.sampling.seed,
                    job.sampling.temperature,
                )
                asked.top_k_B[row], asked.top_p_B[row] = job.sampling.top_k, job.sampling.top_p
        start, known = (
            time.perf_counter(),
            min(self.tokenizer.vocab_size, self.model.config.vocab_size),
        )
        self._streams, written = decode(
            self.model, self.params, self._streams, asked, self._limit, self.tokenizer.end, known
        )
        written = jax.device_get(written)
        steps = int(written.count_B.max()) or 1
        self._limit = int(
            np.clip(steps * PACE / (time.perf_counter() - start), 1, min(2 * self._limit, ROOM))
        )
        with self.books:
            for session, row, job in writers:
                count = int(written.count_B[row])
                tokens = written.tokens_BT[row, :count]
                session.tokens += count
                text = self.tokenizer.decode(tokens)
                job.add(tokens, written.logprobs_BT[row, :count], text, bool(written.ended_B[row]))

    def _pauses_of(self, writers: Sequence[tuple[Session, int, Job]]) -> jax.Array:
        """[rows, V] on the device; sent there when another sequence is looked for."""
        wanted = [()] * len(self._seats)
        for _, row, job in writers:
            wanted[row] = job.sampling.stop
        if self._pauses is None or self._pauses[0] != wanted:
            self._pauses = wanted, jnp.asarray(np.stack([self.pauses_for(stop) for stop in wanted]))
        return self._pauses[1]

    def _pauses_for(self, stop: tuple[bytes, ...]) -> np.ndarray:
        """[V] bool: the tokens after which a row must wait until the host has looked for a stop
        sequence.
        """
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
        """In which asyncio's sessions drive: one thread, so that a program's other threads stay
        free.
        """
        return concurrent.futures.ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="rmat_jax engine"
        )


def _side_by_side(rows: Sequence[Streams]) -> Streams:
    """One row each, as a batch."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
