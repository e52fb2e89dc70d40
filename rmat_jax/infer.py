"""Reading and writing streams: prefill by whole chunks, decode token by token, on the same state."""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import IGNORE, UserError
from rmat_jax.model import RMAT
from rmat_jax.modules.carry import State
from rmat_jax.ops.sampling import sample
from rmat_jax.types import Array, PyTree

PREFILL_CHUNKS = 8  # read by one call: bounds the memory that logits take


@functools.partial(jax.jit, static_argnums=0)
def _read(model: RMAT, params: PyTree, tokens_BT: Array, lengths_B: Array, state: State) -> tuple[Array, State]:
    logits_BTV, state = model.apply({"params": params}, tokens_BT, state, None, lengths_B)
    final_B11 = jnp.maximum(lengths_B - 1, 0)[:, None, None]
    return jnp.take_along_axis(logits_BTV, final_B11, axis=1)[:, 0], state


def prefill(
    model: RMAT, params: PyTree, tokens_BT: np.ndarray, state: State | None = None, lengths: np.ndarray | None = None
) -> tuple[Array, State]:
    """Reads prompts of any length at constant memory.

    Args:
        model: the model.
        params: its parameters.
        tokens_BT: integer ids on the host, padded at the end.
        state: where the rows stand; None: at the start of a document.
        lengths: [B] tokens of each row, at least 1; None: T.

    Returns:
        Logits [B, V] of the token after each row's last, and the state.

    Raises:
        UserError: an empty prompt, or ids outside the vocabulary.
    """
    tokens_BT = np.asarray(tokens_BT, np.int32)
    batch, length = tokens_BT.shape
    lengths_B = np.full(batch, length) if lengths is None else np.asarray(lengths)
    if length == 0 or lengths_B.min() < 1:
        raise UserError("the prompt is empty; give at least one token")
    if lengths_B.max() > length:
        raise UserError(f"a row's length is {lengths_B.max()}, but there are only {length} tokens")
    vocab_size = model.config.vocab_size
    tokens_BT = np.where(np.arange(length) < lengths_B[:, None], tokens_BT, 0)
    if tokens_BT.min() < 0 or tokens_BT.max() >= vocab_size:
        worst = tokens_BT.max() if tokens_BT.max() >= vocab_size else tokens_BT.min()
        raise UserError(f"token id {worst} is outside the vocabulary 0..{vocab_size - 1}")
    if state is None:
        state = model.initial_state(batch)
    # Calls of a few sizes only, since each size is compiled once.
    size = min(PREFILL_CHUNKS * model.config.chunk_len, max(16, 1 << (length - 1).bit_length()))
    padded_BT = np.pad(tokens_BT, ((0, 0), (0, -length % size)))
    logits_BV = jnp.zeros((batch, vocab_size), jnp.dtype(model.config.param_dtype))
    for start in range(0, length, size):
        count_B = np.clip(lengths_B - start, 0, size).astype(np.int32)
        last_BV, state = _read(model, params, padded_BT[:, start : start + size], count_B, state)
        logits_BV = jnp.where(count_B[:, None] > 0, last_BV, logits_BV)
    return logits_BV, state


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


def decode_step(model: RMAT, params: PyTree, tokens_B: Array, state: State) -> tuple[Array, State]:
    """Reads one token of each row: logits [B, V] of the next, and the state. To be jitted by the caller."""
    logits_B1V, state = model.apply({"params": params}, tokens_B[:, None], state)
    return logits_B1V[:, 0], state


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7), donate_argnums=3)
def decode(
    model: RMAT,
    params: PyTree,
    logits_BV: Array,
    state: State,
    keys_B: Array,
    max_new_tokens: int,
    end: int,
    top_k: int,
    temperature: float,
    top_p: float,
) -> tuple[Array, Array, State]:
    """Samples until `end` or `max_new_tokens`, in one loop on the device. The state that goes in is donated.

    A row that has ended reads on, since rows step together; what it reads after its end is not returned.

    Returns:
        Tokens [B, max_new_tokens], -1 after a row's end; how many of them there are [B]; the state after the last step.
    """
    batch = logits_BV.shape[0]

    def unfinished(carry):
        step, _, _, _, counts_B, ended_B = carry
        return (step < max_new_tokens) & ~ended_B.all()

    def advance(carry):
        step, logits_BV, state, tokens_BT, counts_B, ended_B = carry
        step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        next_B = sample(step_keys_B, logits_BV, temperature, top_k, top_p)
        ended_B |= next_B == end
        tokens_BT = tokens_BT.at[:, step].set(jnp.where(ended_B, -1, next_B))
        logits_BV, state = decode_step(model, params, next_B, state)
        return step + 1, logits_BV, state, tokens_BT, counts_B + ~ended_B, ended_B

    tokens_BT = jnp.full((batch, max_new_tokens), -1, jnp.int32)
    carry = (0, logits_BV, state, tokens_BT, jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool))
    _, _, state, tokens_BT, counts_B, _ = jax.lax.while_loop(unfinished, advance, carry)
    return tokens_BT, counts_B, state


def generate(
    model: RMAT,
    params: PyTree,
    prompt: np.ndarray,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    end: int = -1,
) -> np.ndarray:
    """Goes on with one prompt.

    Args:
        model: the model.
        params: its parameters.
        prompt: [T] token ids, T >= 1.
        max_new_tokens: at most so many are written.
        temperature: 0 takes the most likely token each time.
        top_k: only the k most likely; 0: all.
        top_p: only the fewest that together have this probability; 1: all.
        seed: the same seed gives the same text.
        end: the token that ends the text; -1: none.

    Returns:
        [n] new token ids, n <= max_new_tokens, without `end`.

    Raises:
        UserError: an empty prompt, ids outside the vocabulary, or a sampling value against its rule.
    """
    for name, value, holds, rule in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "be at least 1"),
        ("temperature", temperature, temperature >= 0, "not be negative"),
        ("top_k", top_k, top_k >= 0, "not be negative"),
        ("top_p", top_p, 0 < top_p <= 1, "lie in (0, 1]"),
    ):
        if not holds:
            raise UserError(f"{name}={value} must {rule}")
    logits_BV, state = prefill(model, params, np.asarray(prompt)[None])
    keys_B = jax.random.split(jax.random.key(seed), 1)
    tokens_BT, counts_B, _ = decode(
        model, params, logits_BV, state, keys_B, max_new_tokens, end, top_k, temperature, top_p
    )
    return np.asarray(tokens_BT)[0, : int(counts_B[0])]
