"""One stream's place in the engine: where it stands, and what is still to be done for it."""

import dataclasses
from collections import deque

import numpy as np

from rmat_jax.infer.job import Job
from rmat_jax.infer.streams import Streams


@dataclasses.dataclass(eq=False)
class Ticket:
    """Stands for one stream. `Rows` writes it, and a session holds it.

    The stream lies either here or in a row of the batch: one of `stream` and `row` is None. Two
    tickets are equal only if they are the same one.
    """

    # one row, while the ticket has none in the batch
    stream: Streams | None
    # tokens read so far; those that the model wrote are among them
    tokens: int = 0
    # the row in the batch
    row: int | None = None
    # `tokens` at the time it took its row
    seated_at: int = 0
    # pieces of prompts, in order
    unread: deque[np.ndarray] = dataclasses.field(default_factory=deque)
    # the last text, which may be over
    job: Job | None = None

    @property
    def is_new(self) -> bool:
        """Tells whether the stream was given nothing but the token that opens a document."""
        return self.tokens + sum(map(len, self.unread)) <= 1

    @property
    def is_writing(self) -> bool:
        """Tells whether a text has begun and is not over."""
        return self.job is not None and not self.job.ended

    @property
    def is_unfinished(self) -> bool:
        """Tells whether anything is left to read or to write."""
        return bool(self.unread) or self.is_writing

    @property
    def has_work(self) -> bool:
        """Tells whether a step can do something for the stream now.

        A text whose reader is far behind is unfinished, but is no work for a step.
        """
        return bool(self.unread) or (self.job is not None and self.job.goes_on)
