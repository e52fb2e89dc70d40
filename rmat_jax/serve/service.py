"""What all requests share: the engine and its thread, the sessions, the limits, and the counts.

`Answer` is one text on its way from the model to a client.
"""

import asyncio
import codecs
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rmat_jax.errors import UserError
from rmat_jax.infer.engine import Engine
from rmat_jax.infer.job import Job, Piece
from rmat_jax.infer.sampling import Sampling
from rmat_jax.infer.session import Session
from rmat_jax.serve.limits import Limits
from rmat_jax.serve.metrics import Metrics
from rmat_jax.serve.refusals import Refusal, ending
from rmat_jax.serve.store import Store
from rmat_jax.serve.worker import Worker

T = TypeVar("T")


class Gone(Exception):
    """Ends a request whose client has left."""


class Answer:
    """One text: its session, and the tokens and characters that have come so far."""

    def __init__(self, session: Session, job: Job):
        self.session, self.job = session, job
        self.parts: list[str] = []
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: Piece | None) -> str:
        """Takes the next piece, None after the last, and returns its whole characters."""
        if piece is not None:
            self.tokens += piece.tokens.tolist()
            self.logprobs += piece.logprobs.tolist()
        text = self._characters.decode(piece.text if piece else b"", final=piece is None)
        self.parts.append(text)
        return text

    @property
    def text(self) -> str:
        """Returns the text so far."""
        return "".join(self.parts)

    @property
    def cut(self) -> bool:
        """Tells whether the text ended early, because the server ends."""
        return self.job.ended == "given up"


class Service:
    """Holds what all requests share."""

    def __init__(self, engine: Engine, worker: Worker, store: Store, limits: Limits, name: str):
        """Args: name: the model's name for clients."""
        self.engine, self.worker, self.store, self.limits = engine, worker, store, limits
        self.name, self.started = name, int(time.time())
        self.metrics = Metrics()
        # the number of streams of the requests that are being answered
        self.streams = 0
        # whether new requests are refused
        self.closing = False
        # whether unfinished texts are cut off
        self.over = False
        self._answers: set[Answer] = set()
        # texts to score take the thread's time in turns
        self._scoring = asyncio.Lock()
        gauges = {
            "rows": ("Streams that can be read or written at a time.", lambda: limits.rows),
            "rows_busy": ("Rows that are reading or writing.", lambda: engine.traffic.seated),
            "streams_waiting": ("Streams that wait for a row.", lambda: engine.traffic.waiting),
            "streams": ("Streams of requests that are being answered.", lambda: self.streams),
            "sessions_memory": ("Sessions in memory.", lambda: store.in_memory),
            "sessions_stored": ("Sessions in the folder.", lambda: store.in_folder),
            "session_bytes": ("Bytes of one session's state.", lambda: engine.state_bytes),
            "state_bytes": (
                "Bytes of the states in memory.",
                lambda: store.in_memory * engine.state_bytes,
            ),
        }
        for gauge, (text, value) in gauges.items():
            self.metrics.gauge(gauge, text, value)

    @contextlib.contextmanager
    def admitted(self, streams: int) -> Iterator[None]:
        """Admits a request with its streams, while the block lasts.

        Raises:
            Refusal: 429, there is no room now; 503, the server is ending.
        """
        most = self.limits.texts
        if self.closing:
            raise ending()
        if self.streams + streams > most:
            raise Refusal(
                429,
                f"{self.streams} of {most} texts are being written or waiting; try again later",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self.streams += streams
        try:
            yield
        finally:
            self.streams -= streams

    def check_model(self, name: str | None) -> None:
        """Raises Refusal, 404, for another model than the one that is served."""
        if name not in (None, self.name):
            raise Refusal(
                404,
                f"the model {name[:60]!r} is not served here; {self.name!r} is",
                param="model",
                code="model_not_found",
            )

    async def encode(
        self, prompt: str | Sequence[int], name: str, first: bool = True
    ) -> np.ndarray:
        """Turns a prompt into token ids.

        Args:
            prompt: text or ids.
            name: the field's name, for the errors.
            first: whether it begins a document.

        Raises:
            Refusal: 400, the prompt is neither, or has too many tokens.
        """
        try:
            tokens = await asyncio.to_thread(self.engine.encode, prompt, first)
        except UserError as error:
            raise Refusal(400, f"{error}", param=name) from error
        if len(tokens) > self.limits.prompt_tokens:
            raise Refusal(
                400,
                f"{name} has {len(tokens):,} tokens, at most {self.limits.prompt_tokens:,} are "
                "taken at a time; send the rest with previous_response_id",
                param=name,
                code="context_length_exceeded",
            )
        return tokens

    async def write(
        self, sessions: Sequence[Session], copies: int, rules: Sequence[Sampling]
    ) -> AsyncIterator[tuple[int, str, Answer, bool]]:
        """Writes one text for each set of rules, `copies` texts after each session.

        The caller drops the sessions. This call drops the forks that it makes.

        Yields:
            The index of a text, its new characters, its `Answer`, and whether it is over.

        Raises:
            Refusal: 503, the server ends while prompts are read; 500, the thread has ended.
            UserError: a text ended with an error.
        """
        start, waits = time.perf_counter(), True
        forks: list[Session] = []
        answers: list[Answer] = []
        try:
            if copies > 1:
                # each prompt is read once, whatever the number of copies
                await self.worker.until(
                    lambda: self.over or not any(s.ticket.unread for s in sessions)
                )
                for session in sessions if not self.over else ():
                    for _ in range(copies):
                        forks.append(await self.worker.do(session.fork))
            if self.over:
                raise ending()
            for session, rule in zip(forks or sessions, rules, strict=True):
                # It takes a while to find the tokens in which a stop sequence may end.
                job = await asyncio.to_thread(self.engine.start, session.ticket, rule)
                answers.append(Answer(session, job))
            self._answers.update(answers)
            self.worker.wake()
            pieces = self.worker.pieces([answer.job for answer in answers])
            async with contextlib.aclosing(pieces):
                async for place, piece in pieces:
                    answer = answers[place]
                    count = len(piece.tokens) if piece else 0
                    if count and waits:
                        waits = False
                        self.metrics.first.observe(time.perf_counter() - start)
                    self.metrics.written.inc(count)
                    yield place, answer.add(piece), answer, piece is None
        finally:
            self._answers.difference_update(answers)
            self.worker.drop(forks)

    async def score(self, text: str) -> tuple[int, float]:
        """Computes what a text costs as a document: its number of tokens, and their nats."""
        tokens = await self.encode(text, "input")
        parts, scored = self.engine.score(tokens), None
        while True:
            if self.over:
                raise ending()
            async with self._scoring:
                part = await self.worker.do(lambda: next(parts, None))
            if part is None:
                self.metrics.read.inc(scored.tokens)
                return scored.tokens, scored.nats
            scored = part

    def cut(self) -> None:
        """Cuts off all unfinished texts."""
        self.over = True
        for answer in self._answers:
            self.engine.stop(answer.session.ticket)
        self.worker.announce()


class Events(StreamingResponse):
    """Sends events as they come, and closes their source, even if the client has gone."""

    def __init__(self, events: AsyncIterator[str], stack: contextlib.AsyncExitStack):
        """Args: stack: resources to close after the last event, or when the client has gone."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack, contextlib.aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """Waits for a piece of work as long as the client does.

    Raises:
        Gone: the client has left. The work is cancelled.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_leaves(request))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
