"""The models that `bench stream` times. All decode one row greedily, token by token."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import RMATConfig
from rmat_jax.infer.open_chunk import unstack_params
from rmat_jax.infer.streams import ROOM, Requests, begin, decode, prefill
from rmat_jax.model import RMAT
from rmat_jax.modules.documents import NOBODY
from rmat_jax.types import PyTree

# tokens before each sample that are not timed, since another model has emptied the caches
WARM_UP = 4
# the parts of `memory` that run only when a chunk closes
MEMORY_WRITE = ("gate", "key", "value", "read_norm")


class Peer(Protocol):
    """A model that has read a context and goes on writing."""

    name: str
    # the number of tokens that it has read
    context: int
    # the number of tokens that are timed at once
    sample: int
    # the weights that one token needs
    weight_bytes: float
    # the part of the state that one token needs
    cache_bytes: float

    @property
    def state_bytes(self) -> int:
        """The bytes of one stream's state."""

    def rewind(self) -> None:
        """Goes back to the beginning of a sample, WARM_UP tokens before the timed ones."""

    def write(self, tokens: int) -> Sequence[int]:
        """Writes so many tokens, and returns them when they are computed."""


class JaxPeer:
    """A model of this project in the device loop that `generate` and the engine use."""

    def __init__(self, name: str, model: RMAT, params: PyTree, context: int, sample: int):
        self.name, self.model, self.params = name, model, params
        self.context, self.sample = context, sample
        self.streams = begin(model, 1)
        self.weight_bytes, self.cache_bytes = bytes_a_token(model.config, params, self.state_bytes)

    @property
    def state_bytes(self) -> int:
        return self.streams.state.num_bytes()

    def write(self, tokens: int) -> np.ndarray:
        vocab_size, written = self.model.config.vocab_size, []
        requests = greedy(vocab_size)
        while tokens:
            limit = min(tokens, ROOM)
            self.streams, out = decode(
                self.model, self.params, self.streams, requests, limit, -1, vocab_size
            )
            written.append(jax.device_get(out).tokens_BT[0, :limit])
            tokens -= limit
        return np.concatenate(written)


class Rmat(JaxPeer):
    """Our model. It has really read the context, and a sample has whole chunks, so that each sample
    has its share of the memory's writes.

    It is not rewound, since the next token costs the same after any number of samples.
    """

    def __init__(self, config: RMATConfig, params: PyTree, context: int, tokens: int, seed: int):
        sample = -(-tokens // config.chunk_len) * config.chunk_len
        super().__init__("RMAT", RMAT(config), params, context, sample)
        prompt = np.random.default_rng(seed).integers(
            config.vocab_size, size=(1, context), dtype=np.int32
        )
        self.streams = prefill(self.model, params, self.streams, prompt)

    def rewind(self) -> None:
        pass


class FullAttention(JaxPeer):
    """The same code as a plain transformer. One chunk of `context` places is its static cache of
    keys and values.

    The cache is filled with random numbers, since the scores of a long prompt would take more
    memory than the model. The cost of a token does not depend on them, since all places are
    computed and masked.
    """

    def __init__(self, config: RMATConfig, params: PyTree, context: int, tokens: int, seed: int):
        super().__init__(
            "full attention", *full_attention(config, params, context), context, tokens
        )
        state = self.streams.state
        keys = iter(jax.random.split(jax.random.key(seed), 2 * config.num_layers))
        layers = jax.tree.map(
            lambda x: jax.random.normal(next(keys), x.shape, x.dtype), state.layers
        )
        # One place stays free, since a chunk that becomes full is emptied.
        self.start = context - 1 - tokens - WARM_UP
        self.streams = self.streams.replace(state=state.replace(layers=layers))

    def rewind(self) -> None:
        documents_BC = jnp.where(jnp.arange(self.context)[None] < self.start, 0, NOBODY)
        state = self.streams.state.replace(
            documents_BC=documents_BC.astype(jnp.int32),
            position_B=jnp.full(1, self.start, jnp.int32),
        )
        self.streams = self.streams.replace(
            state=state, logits_BV=jnp.zeros_like(self.streams.logits_BV)
        )


def full_attention(config: RMATConfig, params: PyTree, context: int) -> tuple[RMAT, PyTree]:
    """Makes a transformer of the same weights that attends to `context` tokens in full, without
    window and memory.
    """
    changes = {"branches": ("full",), "local": None, "memory": None, "chunk_len": context}
    # parameters of the branches' shares and the memory
    other = ("fusion", "memory", "memory_bias")
    layers = tuple(
        {part: leaf for part, leaf in layer.items() if part not in other}
        for layer in params["layers"]
    )
    return RMAT(dataclasses.replace(config, **changes)), params | {"layers": layers}


def init_params(config: RMATConfig, seed: int) -> PyTree:
    """Makes random parameters, unstacked."""
    init = jax.jit(RMAT(config).init)
    return unstack_params(init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"])


def greedy(vocab_size: int) -> Requests:
    """Asks one row to write greedily without end."""
    return Requests(
        left_B=jnp.full(1, 2**31 - 1, jnp.int32),
        seed_B=jnp.zeros(1, jnp.uint32),
        temperature_B=jnp.zeros(1, jnp.float32),
        top_k_B=jnp.zeros(1, jnp.int32),
        top_p_B=jnp.ones(1, jnp.float32),
        pauses_BV=jnp.zeros((1, vocab_size), bool),
    )


def bytes_a_token(config: RMATConfig, params: PyTree, state_bytes: int) -> tuple[float, float]:
    """The bytes of weights and state that one token needs at least, as they are stored.

    The embedding counts with one row. The parts that are used when a chunk closes (slots, gate,
    keys and values of slots) count 1/C.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if not config.tie_embeddings:
        embedding = params["embed"]["embedding"]
        size -= embedding.nbytes * (1 - 1 / config.vocab_size)
    rare = 1 - 1 / config.chunk_len
    if config.memory:
        written = [
            layer.get("memory", {}).get(part, {})
            for layer in params["layers"]
            for part in MEMORY_WRITE
        ]
        size -= rare * sum(leaf.nbytes for leaf in jax.tree.leaves(written))
        itemsize = jnp.dtype(config.param_dtype).itemsize
        state_bytes -= rare * config.num_layers * config.memory.slots * config.width * itemsize
    return size, state_bytes
