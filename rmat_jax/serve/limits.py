"""The limits of a server. Needs no package."""

import dataclasses

from rmat_jax.errors import UserError

# seconds that a request's head may take to arrive, after the connection is made
HEAD_SECONDS = 15.0
# seconds that a request's body may take
BODY_SECONDS = 60.0
# seconds after which a client that reads nothing of its answer is disconnected
WRITE_SECONDS = 60.0
# the most stop sequences of a text, and the most bytes of each
STOPS, STOP_BYTES = 4, 256
# the most open connections
CONNECTIONS = 512


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a server that its user can set.

    Raises:
        UserError: a value is below its minimum.
    """

    # streams that are read or written at the same time
    rows: int = 8
    # streams beyond these that may wait for a turn
    waiting: int = 64
    # sessions in memory
    sessions: int = 256
    # sessions in the folder
    stored: int = 10_000
    # tokens of one request's prompt
    prompt_tokens: int = 1 << 20
    # tokens of one text
    answer_tokens: int = 4096
    # bytes of one request's JSON
    body_bytes: int = 4 << 20
    # seconds that texts may go on after the signal to end
    grace: float = 30.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("waiting", "grace") else 1
            value = getattr(self, field.name)
            # `value < least` would let NaN through
            if not value >= least:
                raise UserError(f"{field.name}={value} must be at least {least}")

    @property
    def texts(self) -> int:
        """Counts the texts that may be written or wait at a time."""
        return self.rows + self.waiting
