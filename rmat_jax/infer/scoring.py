"""Computes what a text costs a model, whatever its length."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmat_jax.config import IGNORE
from rmat_jax.infer import open_chunk
from rmat_jax.infer.devices import along_time, divided, on_all
from rmat_jax.infer.open_chunk import OpenState, stack_layers, stack_params, unstack_layers
from rmat_jax.infer.streams import PREFILL_CHUNKS, Streams, call_width
from rmat_jax.model import RMAT
from rmat_jax.modules.state import State, initial_state
from rmat_jax.ops import context
from rmat_jax.ops.losses import Scores
from rmat_jax.ops.losses import score as score_logits
from rmat_jax.types import Array, PyTree


class Scored(NamedTuple):
    """The cost of a text so far."""

    # the number of scored tokens
    tokens: int
    # their cost
    nats: float


@functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=4)
def _score(
    model: RMAT,
    params: PyTree,
    tokens_BT: Array,
    targets_BT: Array,
    state: State,
    mesh: Mesh | None,
) -> tuple[Array, State]:
    if isinstance(params["layers"], tuple):
        params = stack_params(params)

    def cost(params, tokens_BT, targets_BT, state):
        scores, state = model.apply(
            {"params": params}, tokens_BT, targets_BT, state, method=RMAT.score
        )
        return context.total(scores.loss_BT.sum()), state

    return divided(mesh, cost, False, True, True, False)(params, tokens_BT, targets_BT, state)


def score(
    model: RMAT,
    params: PyTree,
    pieces: Iterable[np.ndarray],
    end: int,
    devices: int = 1,
) -> Iterator[Scored]:
    """Computes the running cost of a document of any length, at constant memory.

    Args:
        model: the model.
        params: its parameters, unstacked or not.
        pieces: the document's token ids, in pieces of any size, which are taken one after the
            other.
        end: the token that opens a document and, as the last target, ends it.
        devices: how many devices of this process divide the document's chunks.

    Yields:
        The running totals after every PREFILL_CHUNKS chunks of each device, and after the document.

    Raises:
        UserError: there are not so many devices, or they cannot divide the chunks.
    """
    length = PREFILL_CHUNKS * model.config.chunk_len * devices
    mesh = along_time(model.config, PREFILL_CHUNKS, devices)
    params = on_all(mesh, params)
    state = on_all(mesh, initial_state(model.config, 1))
    # tokens that were taken and not scored; the first is an input only
    held, ended = np.array([end]), False
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
            batch = (x[None].astype(np.int32) for x in batch)
            cost, state = _score(model, params, *batch, state, mesh)
            tokens, nats = tokens + len(targets), nats + float(cost)
            held = held[len(inputs) :]
            yield Scored(tokens, nats)


class Cost(NamedTuple):
    """The cost of a continuation, token by token."""

    # [n]
    nats: np.ndarray
    # [n] bool, whether each token was the most likely one
    correct: np.ndarray

    @property
    def total(self) -> float:
        """The sum, in nats."""
        return float(self.nats.sum())


def continuations(
    model: RMAT, params: PyTree, streams: Streams, texts: Sequence[np.ndarray]
) -> list[Cost]:
    """Computes the cost of each row's text after what the row has read. The streams stay unchanged.

    Args:
        model: the model.
        params: its parameters, unstacked.
        streams: the rows, each of which has read at least one token.
        texts: token ids for each row, at least one.
    """
    lengths, chunk_len = [len(text) for text in texts], model.config.chunk_len
    first, state = streams.logits_BV, streams.state
    parts, done = [_first(first, np.array([text[0] for text in texts], np.int32))], 1
    while done < max(lengths):
        width = call_width(max(lengths) - done, chunk_len)
        read_BT, asked_BT = (
            np.zeros((len(texts), width), np.int32),
            np.full((len(texts), width), IGNORE, np.int32),
        )
        for row, text in enumerate(texts):
            part = text[done - 1 : done + width]
            read_BT[row, : max(len(part) - 1, 0)], asked_BT[row, : max(len(part) - 1, 0)] = (
                part[:-1],
                part[1:],
            )
        scores, state = _next(model, params, read_BT, asked_BT, state)
        parts.append(scores)
        done += width
    parts = jax.device_get(parts)
    nats_BT, correct_BT = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("loss_BT", "correct_BT")
    )
    return [
        Cost(nats[:length].astype(np.float64), correct[:length].astype(bool))
        for nats, correct, length in zip(nats_BT, correct_BT, lengths, strict=True)
    ]


@jax.jit
def _first(logits_BV: Array, targets_B: Array) -> Scores:
    return score_logits(logits_BV[:, None], targets_B[:, None])


@functools.partial(jax.jit, static_argnums=0)
def _next(
    model: RMAT, params: PyTree, tokens_BT: Array, targets_BT: Array, state: OpenState
) -> tuple[Scores, OpenState]:
    """Scores the next tokens of each row.

    A row whose text is over reads padding, and its state means nothing from there on.
    """
    config, params = model.config, stack_params(params)
    x_BTD, state = open_chunk.read(config, params, stack_layers(state), tokens_BT)
    size = min(x_BTD.shape[1], config.chunk_len)

    def score_part(part):
        x_BSD, targets_BS = part
        return score_logits(open_chunk.logits(config, params, x_BSD), targets_BS)

    # in parts of a chunk, so that the logits of one exist at a time
    parts = jax.tree.map(lambda x: _cut(x, size), (x_BTD, targets_BT))
    scores = jax.lax.map(score_part, parts)
    return jax.tree.map(lambda x: _join(x)[:, : x_BTD.shape[1]], scores), unstack_layers(state)


def _cut(x_BT: Array, size: int) -> Array:
    """Cuts [B, T, ...] into parts of `size`, the last one padded: [N, B, S, ...]."""
    rest = [(0, 0)] * x_BT.ndim
    rest[1] = (0, -x_BT.shape[1] % size)
    x_BT = jnp.pad(x_BT, rest)
    return x_BT.reshape(len(x_BT), -1, size, *x_BT.shape[2:]).swapaxes(0, 1)


def _join(x_NBS: Array) -> Array:
    """Joins parts [N, B, S] to [B, N S]."""
    return x_NBS.swapaxes(0, 1).reshape(x_NBS.shape[1], -1)
