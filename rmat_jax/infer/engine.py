"""Many sessions on one model: they join and leave a batch between steps, without a new compilation.

    engine = Engine(model, params, tokenizer, rows=8)
    session = engine.open("Once upon a time")
    for piece in session.write(max_new_tokens=100):
        print(piece, end="", flush=True)

A session is a value of fixed size, so there may be any number of them. Only those that read or
write need one of the engine's rows, and they take turns where there are too few rows.

A session's text depends on its own prompt, rules and seed alone. For the same number of rows that
holds bit for bit, if the backend's matrix products compute each row alone. Another number of rows
is another program, which rounds differently.

`close`, or the end of a `with` block, ends what is still being written with an error.

A thread that waits for a session drives the engine for all sessions, one step at a time. asyncio
has `Session.stream`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.errors import UserError
from rmat_jax.infer.rows import Rows
from rmat_jax.infer.scoring import Cost, Scored, continuations, score
from rmat_jax.infer.session import Session
from rmat_jax.infer.snapshot import load_stream
from rmat_jax.infer.streams import Streams
from rmat_jax.infer.ticket import Ticket


class Engine(Rows):
    """Opens sessions on the rows of one batch, and says what texts would cost them."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def open(self, prompt: str | bytes | Sequence[int] = b"") -> Session:
        """Makes a session at the beginning of a document, which will read `prompt`.

        Raises:
            UserError: the prompt is neither text nor bytes nor a list of token ids, or an id is
                outside the vocabulary.
        """
        session = Session(self, Ticket(self.beginning))
        session.read(np.concatenate([[self.tokenizer.end], self.encode(prompt, first=True)]))
        return session

    def load(self, file: str | Path) -> Session:
        """Makes the session that was saved to `file`.

        It goes on as the saved one would, bit for bit in an engine of as many rows.

        Raises:
            UserError: there is no such file, it is damaged, or it is of another model, tokenizer
                or weights.
        """
        stream, tokens = load_stream(
            Path(file), self.model.config, self.fingerprint, self.tokenizer.describe
        )
        return Session(self, Ticket(stream, tokens))

    def standing(self, session: Session) -> tuple[Streams, int]:
        """Copies a session's state as a single row, with the number of tokens it has read."""
        return self.copy(session.ticket)

    def score(self, text: str | bytes | Sequence[int]) -> Iterator[Scored]:
        """Computes what a text costs as a document of its own, its end included.

        Yields:
            The running totals. Each takes one call of a few chunks; the last is the text's cost.

        Raises:
            UserError: the text is neither text nor bytes nor a list of token ids, or an id is
                outside the vocabulary.
        """
        tokens = self.encode(text, first=True)
        return score(self.model, self.params, [tokens], self.tokenizer.end)

    def costs(self, asked: Sequence[tuple[Session, str | bytes | Sequence[int]]]) -> list[Cost]:
        """Computes what each text would cost as the next text of its session.

        The sessions stay where they are. One session may come up repeatedly.

        Raises:
            UserError: a text is empty, or an id is outside the vocabulary.
        """
        texts = [self.encode(text, first=session.ticket.is_new) for session, text in asked]
        if not all(map(len, texts)):
            raise UserError("an empty text costs nothing; ask for at least one token")
        rows = [self.standing(session)[0] for session, _ in asked]
        found: list[Cost] = []
        for at in range(0, len(asked), self.prompts):
            group, part = rows[at : at + self.prompts], texts[at : at + self.prompts]
            # Filled up with its last text, a group of any size runs the same program.
            room = self.prompts - len(group)
            streams = _side_by_side(group + group[-1:] * room)
            costs = continuations(self.model, self.params, streams, part + part[-1:] * room)
            found += costs[: len(part)]
        return found


def _side_by_side(rows: Sequence[Streams]) -> Streams:
    """Joins single rows to a batch."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
