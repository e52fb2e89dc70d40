"""The one thread that uses the engine. It makes steps while any stream has something to do.

All other code runs in the event loop, and waits for the end of a step. The thread itself changes or
copies streams, between two steps.
"""

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TypeVar

from rmat_jax.infer.engine import Engine
from rmat_jax.infer.job import Job, Piece
from rmat_jax.infer.session import Session
from rmat_jax.serve.refusals import Refusal

T = TypeVar("T")


class Worker:
    """Drives an engine from `start` to `stop`. All methods are called in one event loop."""

    def __init__(self, engine: Engine):
        self.engine = engine
        # the error that ended the thread early, after which nothing can be done
        self.failure: Exception | None = None
        self._deeds: deque[tuple[concurrent.futures.Future, Callable]] = deque()
        self._wake = threading.Event()
        self._stopped = False
        # set at the end of the current step, and then replaced
        self._tick = asyncio.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="rmat_jax worker", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its step, and refuses all work that waits for it."""
        self._stopped = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    async def do(self, deed: Callable[[], T]) -> T:
        """Lets the thread call a function between two steps, and returns the result.

        Raises:
            Refusal: 500, the thread has ended.
        """
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._deeds.append((future, deed))
        self.wake()
        self._check()
        return await asyncio.wrap_future(future)

    def drop(self, sessions: Iterable[Session]) -> None:
        """Ends the texts of unwanted sessions and drops their unread prompts, without waiting."""
        for session in sessions:
            deed = lambda ticket=session.ticket: self.engine.drop(ticket)  # noqa: E731
            self._deeds.append((concurrent.futures.Future(), deed))
        self.wake()

    def wake(self) -> None:
        """Tells the thread that there may be something to do."""
        self._wake.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for the end of a step after which a condition holds.

        Raises:
            Refusal: 500, the thread has ended.
        """
        while True:
            # taken before the check, or the end of a step in between would go unseen
            tick = self._tick
            if holds():
                return
            self._check()
            self.wake()
            await tick.wait()

    async def pieces(self, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Piece | None]]:
        """Hands out the pieces of texts as they are written.

        A text whose pieces nobody takes waits, and others get its row.

        Yields:
            The index of a text in `jobs` and its next piece; None: that text is over.

        Raises:
            Refusal: 500, the thread has ended.
            UserError: a text ended with an error.
        """
        going = dict(enumerate(jobs))
        while going:
            tick, came = self._tick, False
            for place, job in list(going.items()):
                # Checked before the pieces are taken, so that no later piece is missed.
                over = bool(job.ended)
                while (piece := self.engine.next_piece(job)) is not None:
                    came = True
                    yield place, piece
                if over:
                    del going[place]
                    yield place, None
            if going:
                self._check()
                # a text that waited for its reader may go on
                self.wake()
                if not came:
                    await tick.wait()

    def announce(self) -> None:
        """Lets all waiting coroutines check again."""
        self._tick.set()
        self._tick = asyncio.Event()

    def _check(self) -> None:
        if self.failure is not None or self._stopped:
            raise Refusal(500, "the model has stopped working; the server must be started again")

    def _run(self) -> None:
        try:
            while not self._stopped:
                # Cleared first, so that no call of `wake` from here on is missed.
                self._wake.clear()
                self._do_deeds()
                if sum(self.engine.traffic):
                    self.engine.step()
                    self._loop.call_soon_threadsafe(self.announce)
                else:
                    self._wake.wait()
        except Exception as error:
            self.failure = error
        finally:
            self._stopped = True
            self._do_deeds(refused=True)
            self._loop.call_soon_threadsafe(self.announce)

    def _do_deeds(self, refused: bool = False) -> None:
        # Deeds that come meanwhile wait for the next step, or there would never be a step.
        for _ in range(len(self._deeds)):
            future, deed = self._deeds.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if refused:
                    self._check()
                future.set_result(deed())
            except Exception as error:
                future.set_exception(error)
