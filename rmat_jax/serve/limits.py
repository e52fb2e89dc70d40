"""What a server takes at most. Needs no package."""

import dataclasses

from rmat_jax.errors import UserError

# seconds that a request's head may take to arrive, after the connection is made
HEAD_SECONDS = 15.0
# seconds that its body may take
BODY_SECONDS = 60.0
# seconds without any progress after which a client that does not read is left
WRITE_SECONDS = 60.0
# a text may have so many stop sequences, of so many bytes each
STOPS, STOP_BYTES = 4, 256
# open connections
CONNECTIONS = 512


@dataclasses.dataclass(frozen=True)
class Limits:
    """Holds what a server takes at most.

    Raises:
        UserError: a value is below its least.
    """

    # streams that are read or written at the same time
    rows: int = 8
    # streams beyond these that may wait for a turn
    waiting: int = 64
    # sessions in memory
    sessions: int = 256
    # sessions in the folder
    stored: int = 10_000
    # of one request
    prompt_tokens: int = 1 << 20
    # of one text
    answer_tokens: int = 4096
    # of one request's JSON
    body_bytes: int = 4 << 20
    # seconds that texts may go on after the signal to end
    grace: float = 30.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("waiting", "grace") else 1
            value = getattr(self, field.name)
            # written this way round, since no number is also not below
            if not value >= least:
                raise UserError(f"{field.name}={value} must be at least {least}")

    @property
    def texts(self) -> int:
        """Counts the texts that may be written or wait at a time."""
        return self.rows + self.waiting
