"""The rows of one batch, and the streams that hold them.

A `Ticket` stands for a stream that may want a row. This module knows tickets only; `session` builds
sessions on it, and `engine` opens them.
"""

import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.errors import UserError
from rmat_jax.infer.devices import along_time, of_first, on_all
from rmat_jax.infer.job import Job, Piece
from rmat_jax.infer.open_chunk import stack_params, unstack_params
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.snapshot import fingerprint
from rmat_jax.infer.streams import (
    PREFILL_CHUNKS,
    ROOM,
    Requests,
    Streams,
    begin,
    call_width,
    check_tokens,
    decode,
    put,
    read,
    read_chunks,
    take,
)
from rmat_jax.infer.text import as_bytes, completes
from rmat_jax.infer.ticket import Ticket
from rmat_jax.model import RMAT
from rmat_jax.signals import deferred
from rmat_jax.types import PyTree

# After so many tokens a stream leaves its row if others wait for one.
TURN = 256
# The seconds that one step of writing should take. After each, text appears and others may join.
PACE = 0.05


CLOSED = "this engine is closed; save the session, and load it in another engine"


class Traffic(NamedTuple):
    """Counts the streams that have something to read or to write."""

    # those with a row
    seated: int
    # those that wait for one
    waiting: int


class Rows:
    """Reads and writes many streams on one model, in a batch of fixed size.

    All methods may be called from several threads.
    """

    def __init__(
        self,
        model: RMAT,
        params: PyTree,
        tokenizer: Tokenizer,
        *,
        rows: int = 8,
        prompts: int = 4,
        devices: int = 1,
    ):
        """Makes the batch. Unused rows are computed all the same.

        Args:
            model: the model.
            params: its parameters.
            tokenizer: its tokenizer.
            rows: the number of streams that are read or written at the same time.
            prompts: the number of prompts that one step reads together, at most `rows`.
            devices: how many devices of this process divide the chunks of a long prompt. The first
                of them does everything else.

        Raises:
            UserError: `rows`, `prompts` or `devices` is below 1, there are not so many devices, or
                they cannot divide the chunks of this model.
        """
        if rows < 1 or prompts < 1:
            raise UserError(f"rows={rows} and prompts={prompts} must be at least 1")
        self.model, self.params, self.tokenizer = model, unstack_params(params), tokenizer
        # the devices that read a prompt's whole chunks
        self._mesh = along_time(model.config, PREFILL_CHUNKS, devices)
        self._params_of_all = on_all(self._mesh, self.params)
        self.params = of_first(self._mesh, self._params_of_all)
        # tokens that these devices read in one call
        self.whole = PREFILL_CHUNKS * model.config.chunk_len * devices
        self.prompts = min(prompts, rows)
        # one row that has read nothing; arrays never change, so all new streams share it
        self.beginning = begin(model, 1)
        self.pauses_for = functools.lru_cache(maxsize=64)(self._pauses_for)
        self._streams = begin(model, rows)
        self._seats: list[Ticket | None] = [None] * rows
        # streams with something left to do, in the order of their turns
        self._wanting: dict[Ticket, None] = {}
        # tokens that the next step may write in each row
        self._limit = 4
        self._pauses: tuple[list, jax.Array] | None = None
        self._steps = 0
        self._stepping = self._closed = False
        # held while the fields of this object change, never while the device works
        self._books = threading.Condition()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights of this model."""
        return fingerprint(stack_params(self.params))

    @property
    def state_bytes(self) -> int:
        """Counts the bytes of one stream's state, which does not grow with the text."""
        return self.beginning.state.num_bytes()

    def encode(self, prompt: str | bytes | Sequence[int], first: bool = False) -> np.ndarray:
        """Turns text, bytes or ids into [n] token ids.

        Args:
            prompt: text, bytes or ids.
            first: whether it begins a document.

        Raises:
            UserError: the prompt is none of these, or an id is outside the vocabulary.
        """
        if isinstance(prompt, str | bytes | bytearray | memoryview):
            return self.tokenizer.encode(as_bytes(prompt), first)
        try:
            tokens = np.asarray(prompt)
        except ValueError:
            tokens = np.asarray(None)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise UserError(
                "a prompt must be text, bytes or a list of token ids, "
                f"not {type(prompt).__name__}: {prompt!r:.60}"
            )
        check_tokens(tokens, self.model.config.vocab_size)
        return tokens.astype(np.int32)

    def take_in(self, ticket: Ticket, tokens: np.ndarray) -> None:
        """Adds [n] token ids to what a stream has still to read. Raises UserError if closed."""
        with self._books:
            self._check_open()
            if len(tokens):
                ticket.unread.append(tokens)
                self._wanting.setdefault(ticket)

    def catch_up(self, ticket: Ticket) -> None:
        """Steps until a stream has read all that it was given."""
        self.drive(lambda: not ticket.unread)

    def start(self, ticket: Ticket, sampling: Sampling) -> Job:
        """Begins a text. The steps that follow write it, whoever makes them.

        Raises:
            UserError: the stream is writing already or has read nothing, or the engine is closed.
        """
        # Computed and cached before the lock is taken, so that nobody has to wait for it.
        self.pauses_for(sampling.stop)
        with self._books:
            self._check_open()
            if not ticket.tokens and not ticket.unread:
                raise UserError("the session has read nothing yet; read at least one token first")
            if ticket.is_writing:
                raise UserError(
                    "the session is writing already; read that text to its end, or call stop()"
                )
            ticket.job = Job(sampling)
            self._wanting.setdefault(ticket)
            return ticket.job

    def stop(self, ticket: Ticket) -> None:
        """Ends the text that a stream is writing, after what it has written so far."""
        with self._books:
            if ticket.job is not None:
                ticket.job.end("given up")

    def next_piece(self, job: Job) -> Piece | None:
        """Takes the next piece that is ready; None if there is none.

        Raises:
            UserError: no piece is ready, and the text ended with an error.
        """
        with self._books:
            if job.ready:
                return job.ready.popleft()
            if job.error:
                raise job.error
            return None

    def drop(self, ticket: Ticket) -> None:
        """Ends a stream's text, and drops what it has not read yet.

        The call waits for a step that another thread makes.
        """
        with self._books:
            self._books.wait_for(lambda: not self._stepping)
            ticket.unread.clear()
            if ticket.job is not None:
                ticket.job.give_up()

    @property
    def traffic(self) -> Traffic:
        """Counts the streams that the next step can do something for."""
        with self._books:
            working = [ticket for ticket in self._wanting if ticket.has_work]
            seated = sum(ticket.row is not None for ticket in working)
            return Traffic(seated, len(working) - seated)

    def copy(self, ticket: Ticket) -> tuple[Streams, int]:
        """Copies a stream's state. The stream first reads all that it was given.

        Returns:
            A single row, and the number of tokens that it has read.
        """
        self.catch_up(ticket)
        with self._books:
            # A stream without a row stands still, whatever the step does.
            self._books.wait_for(lambda: ticket.row is None or not self._stepping)
            if ticket.row is None:
                return ticket.stream, ticket.tokens
            self._check_whole()
            return take(self._streams, np.array([ticket.row])), ticket.tokens

    def step(self) -> None:
        """Lets some streams read a piece of their prompts, and all writing streams go on.

        If another thread is in a step, this call waits for its end instead.
        """
        with self._books:
            if self._stepping:
                steps = self._steps
                self._books.wait_for(lambda: self._steps != steps)
                return
            self._check_open()
            self._check_whole()
            self._stepping = True
        try:
            # The streams are donated, so that an interrupted step would lose them.
            with deferred():
                self._take_turns()
                self._read()
                self._write()
        finally:
            with self._books:
                self._stepping = False
                self._steps += 1
                self._books.notify_all()

    def drive(self, until: Callable[[], bool]) -> None:
        """Makes steps until a condition holds."""
        while not until():
            self.step()

    @functools.cached_property
    def thread(self) -> concurrent.futures.Executor:
        """The one thread in which sessions of asyncio make their steps.

        With a single thread a program's other threads stay free.
        """
        return concurrent.futures.ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="rmat_jax engine"
        )

    def close(self) -> None:
        """Takes no more work. A text that is being written ends with an error.

        The call waits for a step that another thread makes. Text that was written before can still
        be taken, and sessions can be saved.
        """
        with self._books:
            self._closed = True
            self._books.wait_for(lambda: not self._stepping)
            for ticket in self._wanting:
                if ticket.is_writing:
                    ticket.job.fail(UserError(CLOSED))
        if "thread" in vars(self):
            self.thread.shutdown(wait=False)

    def _check_open(self) -> None:
        if self._closed:
            raise UserError(CLOSED)

    def _check_whole(self) -> None:
        if self._streams.logits_BV.is_deleted():
            raise UserError(
                "this engine was interrupted within a step and has lost its rows; make another one"
            )

    def _take_turns(self) -> None:
        """Frees the rows of streams without work or after a turn, and fills rows with others."""
        with self._books:
            self._wanting = {t: None for t in self._wanting if t.is_unfinished}
            waiting = [t for t in self._wanting if t.row is None and t.has_work]
            seated = [t for t in self._seats if t is not None]
            leaving = [t for t in seated if not t.has_work]
            short = len(waiting) - len(leaving) - (len(self._seats) - len(seated))
            had_a_turn = [t for t in seated if t.has_work and t.tokens - t.seated_at >= TURN]
            leaving += had_a_turn[: max(short, 0)]
            for ticket in leaving:
                ticket.stream = take(self._streams, np.array([ticket.row]))
                self._seats[ticket.row], ticket.row = None, None
                if ticket in self._wanting:
                    self._to_the_end(ticket)
            free = [row for row, ticket in enumerate(self._seats) if ticket is None]
            for row, ticket in zip(free, waiting, strict=False):
                self._streams = put(self._streams, np.array([row]), ticket.stream)
                self._seats[row], ticket.row, ticket.stream = ticket, row, None
                ticket.seated_at = ticket.tokens

    def _to_the_end(self, ticket: Ticket) -> None:
        self._wanting[ticket] = self._wanting.pop(ticket)

    def _read(self) -> None:
        """Reads the next piece of some prompts, of the same size."""
        with self._books:
            readers = [t for t in self._wanting if t.row is not None and t.unread]
            if not readers:
                return
            sizes = {t: self._next_piece_of(t) for t in readers}
            _, size, whole = sizes[readers[0]]
            readers = [t for t in readers if sizes[t][1:] == (size, whole)][: self.prompts]
            # A place beyond the last row stands for no stream.
            index_P = np.full(self.prompts, len(self._seats))
            tokens_PT = np.zeros((self.prompts, size), np.int32)
            lengths_P = np.zeros(self.prompts, np.int32)
            for place, ticket in enumerate(readers):
                piece = ticket.unread[0][: sizes[ticket][0]]
                index_P[place], lengths_P[place] = ticket.row, len(piece)
                tokens_PT[place, : len(piece)] = piece
            # The token that ends a document begins the next, unless it is a stream's first token.
            begins_PT = tokens_PT == self.tokenizer.end
            begins_PT[: len(readers), 0] &= [ticket.tokens > 0 for ticket in readers]
        if whole:
            self._read_chunks(index_P, tokens_PT, begins_PT)
        else:
            self._streams = read(
                self.model, self.params, self._streams, index_P, tokens_PT, lengths_P, begins_PT
            )
        jax.block_until_ready(self._streams.logits_BV)
        with self._books:
            for ticket, length in zip(readers, lengths_P.tolist(), strict=False):
                ticket.tokens += length
                rest = ticket.unread.popleft()[length:]
                if len(rest):
                    ticket.unread.appendleft(rest)
                # A long prompt lets others read.
                self._to_the_end(ticket)

    def _next_piece_of(self, ticket: Ticket) -> tuple[int, int, bool]:
        """Plans a stream's next call: its tokens, its width, and whether it reads whole chunks.

        It depends on the stream's own prompt and place alone, so other streams change nothing.
        """
        length, chunk_len = len(ticket.unread[0]), self.model.config.chunk_len
        to_border = -ticket.tokens % chunk_len
        if length < to_border + self.whole:
            width = call_width(length, chunk_len)
            return width, width, False
        if to_border:
            return to_border, call_width(to_border, chunk_len), False
        return self.whole, self.whole, True

    def _read_chunks(
        self, index_P: np.ndarray, tokens_PT: np.ndarray, begins_PT: np.ndarray
    ) -> None:
        mesh, rows = self._mesh, take(self._streams, index_P)
        rows = on_all(mesh, rows)
        rows = read_chunks(self.model, self._params_of_all, rows, tokens_PT, begins_PT, mesh)
        self._streams = put(self._streams, index_P, of_first(mesh, rows))

    def _write(self) -> None:
        """Writes the next tokens of all streams that have a text to write."""
        with self._books:
            writers = [
                (ticket, ticket.row, ticket.job)
                for ticket in filter(None, self._seats)
                if ticket.job and ticket.job.goes_on and not ticket.unread
            ]
            if not writers:
                return
            asked = self._requests([(row, job) for _, row, job in writers])
        known = min(self.tokenizer.vocab_size, self.model.config.vocab_size)
        start = time.perf_counter()
        self._streams, written = decode(
            self.model, self.params, self._streams, asked, self._limit, self.tokenizer.end, known
        )
        written = jax.device_get(written)
        steps = int(written.count_B.max()) or 1
        in_pace = steps * PACE / (time.perf_counter() - start)
        self._limit = int(np.clip(in_pace, 1, min(2 * self._limit, ROOM)))
        with self._books:
            for ticket, row, job in writers:
                count = int(written.count_B[row])
                tokens = written.tokens_BT[row, :count]
                text = self.tokenizer.decode(tokens, first=ticket.is_new)
                ticket.tokens += count
                job.add(tokens, written.logprobs_BT[row, :count], text, bool(written.ended_B[row]))

    def _requests(self, writers: Sequence[tuple[int, Job]]) -> Requests:
        """Tells each row what to write. The rows that are not named write nothing."""
        rows = len(self._seats)
        asked = Requests(
            left_B=np.zeros(rows, np.int32),
            seed_B=np.zeros(rows, np.uint32),
            temperature_B=np.zeros(rows, np.float32),
            top_k_B=np.zeros(rows, np.int32),
            top_p_B=np.ones(rows, np.float32),
            pauses_BV=self._pauses_of(writers),
        )
        for row, job in writers:
            rules = job.sampling
            asked.left_B[row], asked.seed_B[row] = job.left, rules.seed
            asked.temperature_B[row] = rules.temperature
            asked.top_k_B[row], asked.top_p_B[row] = rules.top_k, rules.top_p
        return asked

    def _pauses_of(self, writers: Sequence[tuple[int, Job]]) -> jax.Array:
        """`_pauses_for` of each row, [rows, V], sent to the device when stop sequences change."""
        wanted = [()] * len(self._seats)
        for row, job in writers:
            wanted[row] = job.sampling.stop
        if self._pauses is None or self._pauses[0] != wanted:
            self._pauses = wanted, jnp.asarray(np.stack([self.pauses_for(stop) for stop in wanted]))
        return self._pauses[1]

    def _pauses_for(self, stop: tuple[bytes, ...]) -> np.ndarray:
        """[V] bool: the tokens that could complete one of the stop sequences.

        After such a token a row waits until the host has looked for the sequence.
        """
        pauses_V = np.zeros(self.model.config.vocab_size, bool)
        if stop:
            for token, text in enumerate(self._vocabulary[: len(pauses_V)]):
                pauses_V[token] = completes(stop, text)
        return pauses_V

    @functools.cached_property
    def _vocabulary(self) -> list[bytes]:
        return [self.tokenizer.decode([token]) for token in range(self.tokenizer.vocab_size)]
