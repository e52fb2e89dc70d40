"""What a text costs a model, whatever its length."""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from rmat_jax.config import IGNORE
from rmat_jax.infer.streams import PREFILL_CHUNKS
from rmat_jax.model import RMAT
from rmat_jax.modules.carry import State
from rmat_jax.types import Array, PyTree


class Scored(NamedTuple):
    """A text read so far."""

    tokens: int  # scored ones
    nats: float  # what they cost


@functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
def _score(model: RMAT, params: PyTree, tokens_BT: Array, targets_BT: Array, state: State) -> tuple[Array, State]:
    scores, state = model.apply({"params": params}, tokens_BT, targets_BT, state, method=RMAT.score)
    return scores.loss_BT.sum(), state


def score(model: RMAT, params: PyTree, pieces: Iterable[np.ndarray], end: int) -> Iterator[Scored]:
    """What a document costs the model, token by token, whatever its length, at constant memory.

    Args:
        model: the model.
        params: its parameters.
        pieces: the document's token ids, in pieces of any sizes that are asked for one after the other.
        end: the token that opens a document and, as the last target, ends it.

    Yields:
        The running totals after every PREFILL_CHUNKS chunks, and after the document.
    """
    length = PREFILL_CHUNKS * model.config.chunk_len
    state = model.initial_state(1, closed=True)
    held, ended = np.array([end]), False  # read, its first token as input only
    tokens, nats = 0, 0.0
    pieces = iter(pieces)
    while not ended:
        while len(held) <= length and not ended:
            piece = next(pieces, None)
            ended = piece is None
            held = np.append(held, end if ended else piece)
        while len(held) > length or (ended and len(held) > 1):
            inputs, targets = held[:-1][:length], held[1:][:length]
            padding = length - len(inputs)
            batch = (
                np.pad(inputs, (0, padding), constant_values=end),
                np.pad(targets, (0, padding), constant_values=IGNORE),
            )
            cost, state = _score(model, params, *(x[None].astype(np.int32) for x in batch), state)
            tokens, nats = tokens + len(targets), nats + float(cost)
            held = held[len(inputs) :]
            yield Scored(tokens, nats)
