"""Pure functions in which streams side by side read prompts, and write in one device loop.

`rows` calls them, and knows which stream has which row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from rmat_jax.errors import UserError
from rmat_jax.infer import open_chunk
from rmat_jax.infer.devices import divided
from rmat_jax.infer.open_chunk import OpenState, stack_layers, stack_params, unstack_layers
from rmat_jax.model import RMAT
from rmat_jax.ops.sampling import sample
from rmat_jax.types import Array, PyTree

# chunks that one call reads
PREFILL_CHUNKS = 8
# tokens a row may write in one call
ROOM = 64


@struct.dataclass
class Streams:
    """The state of each row. Nothing else is needed to go on."""

    # with a tuple of layers
    state: OpenState
    # the logits of the next token
    logits_BV: Array
    # the number of tokens that the row has written, which numbers its random draws
    written_B: Array


class Requests(NamedTuple):
    """What each row shall write."""

    # the number of tokens; 0: none
    left_B: Array
    # uint32
    seed_B: Array
    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    # bool: tokens after which a row waits for the next call
    pauses_BV: Array


class Written(NamedTuple):
    """What a call wrote: `count_B` tokens in each row, then ids -1 and log-probabilities 0."""

    tokens_BT: Array
    # natural logarithm of the model's probability, before temperature and cuts
    logprobs_BT: Array
    count_B: Array
    # whether the row stopped at `end`, which is not read and not among the tokens
    ended_B: Array


def begin(model: RMAT, batch: int) -> Streams:
    """Makes rows that have read nothing. They must read a token before they can write."""
    logits_BV = jnp.zeros((batch, model.config.vocab_size), jnp.dtype(model.config.param_dtype))
    return Streams(
        open_chunk.initial_state(model.config, batch), logits_BV, jnp.zeros(batch, jnp.int32)
    )


@jax.jit
def take(streams: Streams, index_P: Array) -> Streams:
    """Takes the rows at these places; a place beyond the last row stands for the last row."""
    return jax.tree.map(lambda x: x.at[index_P].get(mode="clip"), streams)


@functools.partial(jax.jit, donate_argnums=0)
def put(streams: Streams, index_P: Array, rows: Streams) -> Streams:
    """Puts other rows at these places; a row for a place beyond the last is dropped.

    The streams are donated.
    """
    return jax.tree.map(lambda x, new: x.at[index_P].set(new, mode="drop"), streams, rows)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read(
    model: RMAT,
    params: PyTree,
    streams: Streams,
    index_P: Array,
    tokens_PT: Array,
    lengths_P: Array,
    begins_PT: Array | None = None,
) -> Streams:
    """Lets some rows read a piece of their prompts together. The streams are donated.

    Args:
        model: the model.
        params: its parameters, unstacked (`unstack_params`).
        streams: all rows.
        index_P: the places of the rows that read; a place beyond the last row stands for no row.
        tokens_PT: token ids, padded at the end to one of a few widths (`call_width`), since each
            width is compiled.
        lengths_P: how many tokens of a row count; 0: the row stays as it is.
        begins_PT: whether a token begins a new document; None: none does.
    """
    rows = take(streams, index_P)
    # Stacked layers are compiled once, and the copy of the weights costs little beside reading.
    params, state = stack_params(params), stack_layers(rows.state)
    documents_PT = None if begins_PT is None else _documents(state, begins_PT)
    logits_PV, state = open_chunk.last(
        model.config, params, state, tokens_PT, lengths_P, documents_PT
    )
    logits_PV = jnp.where(lengths_P[:, None] > 0, logits_PV, rows.logits_BV)
    return put(streams, index_P, rows.replace(state=unstack_layers(state), logits_BV=logits_PV))


@functools.partial(jax.jit, static_argnums=(0, 5))
def read_chunks(
    model: RMAT,
    params: PyTree,
    rows: Streams,
    tokens_PT: Array,
    begins_PT: Array,
    mesh: Mesh | None,
) -> Streams:
    """Lets rows at a chunk's border read many whole chunks at once, as training does.

    Args:
        model: the model.
        params: its parameters, unstacked.
        rows: the rows that read.
        tokens_PT: token ids, whole chunks for each device.
        begins_PT: whether a token begins a new document.
        mesh: the devices that divide the chunks, which all hold the rows and the parameters; None:
            one device.
    """

    def read(params, state, tokens_PT, documents_PT):
        return open_chunk.read_chunks(model.config, params, state, tokens_PT, documents_PT)

    params, state = stack_params(params), stack_layers(rows.state)
    documents_PT = _documents(state, begins_PT)
    read = divided(mesh, read, False, False, True, True)
    logits_PV, state = read(params, state, tokens_PT, documents_PT)
    return rows.replace(state=unstack_layers(state), logits_BV=logits_PV)


def _documents(state: OpenState, begins_PT: Array) -> Array:
    """The ids of the tokens' documents, [P, T], counted from the state's document."""
    return state.document_B[:, None] + jnp.cumsum(begins_PT, axis=1)


def call_width(length: int, chunk_len: int) -> int:
    """The width of the call that reads the next of `length` tokens: one of a few widths, at most
    PREFILL_CHUNKS chunks.
    """
    most, width = PREFILL_CHUNKS * chunk_len, 16
    while width < min(length, most):
        width *= 4
    return min(width, most)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(
    model: RMAT,
    params: PyTree,
    streams: Streams,
    requests: Requests,
    limit: Array,
    end: Array,
    known: Array,
) -> tuple[Streams, Written]:
    """Lets every row with something left to write go on, in one loop on the device.

    The streams are donated.

    A row stops at `end`, after a token at which it pauses, when nothing is left, or after `limit`
    tokens.

    Args:
        model: the model.
        params: its parameters, unstacked.
        streams: all rows.
        requests: what each shall write.
        limit: the most tokens of a row, at most ROOM.
        end: the token that ends a text; -1: none.
        known: only ids below it are written, since a model may have more ids than its tokenizer.
    """
    batch = streams.logits_BV.shape[0]
    seeds_B = jax.vmap(jax.random.key)(requests.seed_B)

    def unfinished(carry):
        step, _, goes_B, _ = carry
        return (step < limit) & goes_B.any()

    def advance(carry):
        step, streams, goes_B, out = carry
        keys_B = jax.vmap(jax.random.fold_in)(seeds_B, streams.written_B)
        known_BV = jnp.where(
            jnp.arange(streams.logits_BV.shape[1])[None] < known, streams.logits_BV, -jnp.inf
        )
        next_B = sample(
            keys_B, known_BV, requests.temperature_B, requests.top_k_B, requests.top_p_B
        )
        ended_B = goes_B & (next_B == end)
        reads_B = goes_B & ~ended_B
        logprob_B = jnp.take_along_axis(
            jax.nn.log_softmax(streams.logits_BV), next_B[:, None], axis=1
        )[:, 0]
        out = Written(
            tokens_BT=out.tokens_BT.at[:, step].set(jnp.where(reads_B, next_B, -1)),
            logprobs_BT=out.logprobs_BT.at[:, step].set(jnp.where(reads_B, logprob_B, 0)),
            count_B=out.count_B + reads_B,
            ended_B=out.ended_B | ended_B,
        )
        counts_B = reads_B.astype(jnp.int32)
        logits_BV, state = open_chunk.last(
            model.config, params, streams.state, next_B[:, None], counts_B
        )
        logits_BV = jnp.where(reads_B[:, None], logits_BV, streams.logits_BV)
        streams = Streams(state, logits_BV, streams.written_B + reads_B)
        pauses_B = jnp.take_along_axis(requests.pauses_BV, next_B[:, None], axis=1)[:, 0]
        return step + 1, streams, reads_B & ~pauses_B & (out.count_B < requests.left_B), out

    out = Written(
        tokens_BT=jnp.full((batch, ROOM), -1, jnp.int32),
        logprobs_BT=jnp.zeros((batch, ROOM), streams.logits_BV.dtype),
        count_B=jnp.zeros(batch, jnp.int32),
        ended_B=jnp.zeros(batch, bool),
    )
    _, streams, _, out = jax.lax.while_loop(
        unfinished, advance, (0, streams, requests.left_B > 0, out)
    )
    return streams, out


def prefill(
    model: RMAT,
    params: PyTree,
    streams: Streams,
    tokens_BT: np.ndarray,
    lengths: np.ndarray | None = None,
) -> Streams:
    """Lets all rows read prompts of any length, at constant memory. The streams are donated.

    Args:
        model: the model.
        params: its parameters, unstacked.
        streams: all rows.
        tokens_BT: integer ids on the host, padded at the end.
        lengths: [B] how many tokens of each row count, 0 to T; None: T.

    Raises:
        UserError: a length is longer than the prompts, or an id is outside the vocabulary.
    """
    tokens_BT = np.asarray(tokens_BT, np.int32)
    batch, length = tokens_BT.shape
    lengths_B = np.full(batch, length) if lengths is None else np.asarray(lengths)
    if lengths_B.max() > length:
        raise UserError(f"a row's length is {lengths_B.max()}, but there are only {length} tokens")
    tokens_BT = np.where(np.arange(length) < lengths_B[:, None], tokens_BT, 0)
    check_tokens(tokens_BT, model.config.vocab_size)
    done, whole = 0, PREFILL_CHUNKS * model.config.chunk_len
    if not np.asarray(streams.state.position_B).any():
        while done + whole <= lengths_B.min():
            part_BS = tokens_BT[:, done : done + whole]
            streams = read_chunks(model, params, streams, part_BS, np.zeros_like(part_BS), None)
            done += whole
    while done < length:
        width = call_width(length - done, model.config.chunk_len)
        part_BS = tokens_BT[:, done : done + width]
        part_BS = np.pad(part_BS, ((0, 0), (0, width - part_BS.shape[1])))
        count_B = np.clip(lengths_B - done, 0, width).astype(np.int32)
        streams = read(model, params, streams, np.arange(batch), part_BS, count_B)
        done += width
    return streams


def check_tokens(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises UserError for an id outside the vocabulary."""
    for worst in (tokens.min(initial=0), tokens.max(initial=0)):
        if not 0 <= worst < vocab_size:
            raise UserError(f"token id {worst} is outside the vocabulary 0..{vocab_size - 1}")
