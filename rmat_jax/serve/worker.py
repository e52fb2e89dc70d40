"""The one thread that has the engine: it makes steps while any stream has something to do.

Everybody else is in the event loop, and waits for the end of a step. What changes a stream, or
copies one, is done by the thread between two steps.
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
        # what ended the thread before its time; nothing can be done after that
        self.failure: Exception | None = None
        self._deeds: deque[tuple[concurrent.futures.Future, Callable]] = deque()
        self._wake = threading.Event()
        self._stopped = False
        # set at the end of the step that is going on, and replaced
        self._tick = asyncio.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="rmat_jax worker", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its step. What waits for it is refused."""
        self._stopped = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    async def do(self, deed: Callable[[], T]) -> T:
        """Has the thread do something between two steps.

        Raises:
            Refusal: 500, the thread has ended.
        """
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._deeds.append((future, deed))
        self.wake()
        self._check()
        return await asyncio.wrap_future(future)

    def drop(self, sessions: Iterable[Session]) -> None:
        """Ends all that is to be done for sessions that nobody wants any more. Waits for nobody."""
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
            # taken before the look, or the end of a step in between would go unseen
            tick = self._tick
            if holds():
                return
            self._check()
            self.wake()
            await tick.wait()

    async def pieces(self, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Piece | None]]:
        """Hands out what texts consist of as they are written.

        A text whose pieces nobody takes waits, and its row is given to others.

        Yields:
            The place of a text in `jobs` and its next piece; None: that text is over.

        Raises:
            Refusal: 500, the thread has ended.
            UserError: a text ended with an error.
        """
        going = dict(enumerate(jobs))
        while going:
            tick, came = self._tick, False
            for place, job in list(going.items()):
                # Looked at first: what is ready then is all there will be.
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
        """Lets everybody who waits look again."""
        self._tick.set()
        self._tick = asyncio.Event()

    def _check(self) -> None:
        if self.failure is not None or self._stopped:
            raise Refusal(500, "the model has stopped working; the server must be started again")

    def _run(self) -> None:
        try:
            while not self._stopped:
                # Cleared first: whoever wakes the thread from here on is heard.
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
        # Those that come meanwhile wait for the next step, or none would ever be made.
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
