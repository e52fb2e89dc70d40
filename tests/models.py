"""Tiny models for the tests: configs that cover the options, parameters without special values,
documents, streams in pieces.
"""

import dataclasses
import functools
import itertools
import random

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import RMATConfig, from_dict, to_dict
from rmat_jax.infer import open_chunk
from rmat_jax.infer.open_chunk import OpenState
from rmat_jax.model import RMAT
from rmat_jax.modules.documents import NOBODY
from rmat_jax.modules.state import State, initial_state

# The paper's arrangement, with sizes that differ wherever they may.
TINY = from_dict(
    RMATConfig,
    {
        "vocab_size": 11,
        "width": 8,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_width": 12,
        "chunk_len": 8,
        "local": {"window": 4, "sliding": False},
        "memory": {
            "slots": 6,
            "writes": 2,
            "keeps": "outputs",
            "read": "stream",
            "gate": "gru",
            "gate_bias": -2.0,
        },
        "token_shift": False,
        "dtype": "float64",
    },
)
OPTIONS = {
    "branches": (("full", "local", "memory"), ("local", "memory")),
    "local.sliding": (False, True),
    "memory.keeps": ("outputs", "inputs"),
    "memory.read": ("stream", "joint"),
    "memory.gate": ("gru", "slot", "none"),
    "memory.writes": (2, 1),
    "rope": ("per_head", "global", "none"),
    "tie_embeddings": (True, False),
    "token_shift": (False, True),
}
# The options of RMATConfig's defaults, where TINY has others: the hybrid, a slot a token.
DEFAULT = {
    "local.sliding": True,
    "memory.keeps": "inputs",
    "memory.read": "joint",
    "memory.gate": "slot",
    "memory.slots": 16,
    "memory.writes": 8,
    "token_shift": True,
}
QUEUE = DEFAULT | {"branches": ("full", "memory"), "memory.gate": "none"}
FEWER_BRANCHES = [
    {"branches": ("full", "local"), "local.sliding": True},
    {"branches": ("local",), "local.sliding": True, "local.window": 12, "rope": "global"},
    {"branches": ("full",), "tie_embeddings": False},
    QUEUE,
    DEFAULT,
]


def tiny(**changes) -> RMATConfig:
    """TINY with some keys changed, those of groups dotted: `tiny(**{"memory.gate": "slot"})`.

    What `branches` leaves out is None, whatever its keys say.
    """
    values = to_dict(TINY)
    for key, value in changes.items():
        *path, last = key.split(".")
        part = values
        for name in path:
            part = part[name]
        part[last] = value
    return from_dict(RMATConfig, values)


def covering(strength: int = 2, **options) -> list[dict]:
    """Few combinations that hold all values of any two (or `strength`) options that go together, of
    500 drawn at random.
    """
    rng, drawn = random.Random(1), []
    while len(drawn) < 500:
        drawn.append({option: rng.choice(values) for option, values in options.items()})
    held = [set(itertools.combinations(combination.items(), strength)) for combination in drawn]
    missing, chosen = set().union(*held), []
    while missing:
        best = max(range(len(drawn)), key=lambda index: len(held[index] & missing))
        chosen.append(drawn[best])
        missing -= held[best]
    return chosen


COVERING = covering(**OPTIONS) + FEWER_BRANCHES


def name(options: dict) -> str:
    """A test's id: the values, one after the other."""
    return "-".join("+".join(v) if isinstance(v, tuple) else str(v) for v in options.values())


def make_params(config: RMATConfig, seed: int = 0) -> dict:
    """Parameters in which nothing is zero, one or equal: a term that is left out shows."""
    # the dicts are the caller's own
    return jax.tree.map(lambda x: x, _make_params(config, seed))


@functools.cache
def _make_params(config: RMATConfig, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    model = RMAT(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda x: rng.normal(scale=0.35, size=x.shape).astype(x.dtype), shapes)


@functools.cache
def reader(config: RMATConfig):
    """`(params, tokens, state, documents) -> (logits, state)`, compiled once for a shape."""

    @jax.jit
    def read(params, tokens_BT, state=None, documents=None):
        return RMAT(config).apply({"params": params}, tokens_BT, state, documents)

    return read


@functools.cache
def open_reader(config: RMATConfig):
    """The same for streams that stop anywhere, with `lengths`; compiled once for a shape.

    As the engine does it: single tokens with the layers one by one, more tokens with a stack.
    """

    @jax.jit
    def read(params, tokens_BT, state, documents=None, lengths=None):
        one_by_one = tokens_BT.shape[1] == 1
        params = open_chunk.unstack_params(params) if one_by_one else params
        state = state if one_by_one else open_chunk.stack_layers(state)
        x_BTD, state = open_chunk.read(config, params, state, tokens_BT, documents, lengths)
        state = state if one_by_one else open_chunk.unstack_layers(state)
        return open_chunk.logits(config, params, x_BTD), state

    return read


def make_tokens(config: RMATConfig, batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(config.vocab_size, size=(batch, length))


def make_documents(lengths: list[int], total: int) -> np.ndarray:
    """[T] ids of documents of these lengths, the last going on to the end; ids as large and
    unordered as they come.
    """
    ids = np.repeat(np.arange(len(lengths) + 1), [*lengths, max(0, total - sum(lengths))])
    return (ids[:total] * 7919 + 3) % 104_729


def stream(
    config: RMATConfig,
    params,
    tokens,
    documents,
    calls,
    state: State | OpenState | None = None,
    between=lambda s: s,
):
    """Reads [B, T] in calls, each of a width and as many of each row's next tokens as `lengths`.

    Args:
        config: the model's.
        params: its parameters.
        tokens: [B, T].
        documents: [B, T], or None.
        calls: (width, lengths): room for tokens, and how many tokens of each row fill it; the rest
            is filled with noise. `lengths=None` stands for a full call.
        state: before the first call; None: an open one. A closed one reads whole chunks.
        between: is applied to the state after each call.

    Returns:
        Logits [B, T, V], NaN where nothing was read, and the last state.
    """
    batch, total = tokens.shape
    state = open_chunk.initial_state(config, batch) if state is None else state
    next_B = np.zeros(batch, int)
    logits_BTV = np.full((batch, total, config.vocab_size), np.nan)
    rng = np.random.default_rng(0)
    for width, lengths in calls:
        lengths_B = np.full(batch, width) if lengths is None else lengths
        row, column = np.nonzero(np.arange(width) < lengths_B[:, None])
        place = next_B[row] + column
        part = rng.integers(config.vocab_size, size=(batch, width))
        part[row, column] = tokens[row, place]
        owners = None
        if documents is not None:
            owners = rng.integers(99, size=(batch, width))
            owners[row, column] = documents[row, place]
        if isinstance(state, State):
            logits, state = reader(config)(params, part, state, owners)
        else:
            logits, state = open_reader(config)(params, part, state, owners, lengths)
        logits_BTV[row, place] = np.asarray(logits)[row, column]
        state, next_B = between(state), next_B + lengths_B
    return logits_BTV, state


def memory_of(state: OpenState) -> np.ndarray:
    """[L, B, M, D]: the slots that the document read last can see; zeros elsewhere."""
    slots = np.stack([layer.slots_BMD for layer in state.layers])
    return np.where(ages_of(state)[None, :, :, None] > 0, slots, 0)


def ages_of(state: OpenState) -> np.ndarray:
    """[B, M]: their ages; 0 where there is nothing to see."""
    return np.where((state.owner_B == state.document_B)[:, None], state.ages_BM, 0)


def facts(config: RMATConfig, state: State | OpenState) -> dict[str, np.ndarray]:
    """What a state means: all of it that a later token can see, zeros elsewhere."""
    mine_B1 = state.document_B[:, None]
    if isinstance(state, State):
        before = np.asarray(state.window_documents_BW == mine_B1)[None, :, None, None]
        return {
            "document": np.asarray(state.document_B),
            "token": np.asarray(state.token_B if config.token_shift else 0),
            "memory": np.asarray(state.memory_LBMD()),
            "window_keys": np.where(before, state.window_keys_LBHEW, 0),
            "window_values": np.where(before, state.window_values_LBHEW, 0),
        }
    here = (state.documents_BC == mine_B1) & (state.documents_BC != NOBODY)
    out = {"document": state.document_B, "position": state.position_B, "here": here}
    if config.token_shift:
        out["token"] = state.token_B

    def seen(mask_BJ, name):
        x_LBHEJ = np.stack([getattr(layer, name) for layer in state.layers])
        return np.where(np.asarray(mask_BJ)[None, :, None, None], x_LBHEJ, 0)

    out["keys"], out["values"] = seen(here, "keys_BHEC"), seen(here, "values_BHEC")
    if config.memory:
        out |= {"memory": memory_of(state), "ages": ages_of(state)}
        written = out["ages"] > 0
        out["slot_keys"] = seen(written, "slot_keys_BHEM")
        out["slot_values"] = seen(written, "slot_values_BHEM")
        kept_LBCD = np.stack([layer.kept_BCD for layer in state.layers])
        out["kept"] = np.where(np.asarray(here)[None, :, :, None], kept_LBCD, 0)
    if config.carries_window:
        before = state.window_documents_BW == mine_B1
        out["window_keys"] = seen(before, "window_keys_BHEW")
        out["window_values"] = seen(before, "window_values_BHEW")
    return {key: np.asarray(value) for key, value in out.items()}


def assert_same(actual: dict, expected: dict, tolerance: float) -> None:
    """All facts of two states are equal, to an absolute tolerance."""
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=0, atol=tolerance, err_msg=key)


def influence(config: RMATConfig, length: int, documents=None, *, closed: bool = True):
    """[T, T]: the size of the gradient of logit t with respect to input u, by back-propagation.

    T equal rows stand side by side; row t asks about its logit t, and every place of every row has
    a token id of its own, so that a row of the embedding table's gradient is the gradient with
    respect to one input. `closed`: by the model, else by the reader of open chunks.
    """
    config = dataclasses.replace(config, vocab_size=length**2, tie_embeddings=False)
    rng = np.random.default_rng(1)
    params = dict(make_params(config))
    params["embed"] = {"embedding": np.tile(rng.normal(size=(length, config.width)), (length, 1))}
    weights_V = rng.normal(size=config.vocab_size)
    tokens_BT = np.arange(length**2).reshape(length, length)
    documents = None if documents is None else np.tile(documents, (length, 1))

    def asked(embed):
        if closed:
            state = initial_state(config, length)
            logits_BTV, _ = reader(config)(params | {"embed": embed}, tokens_BT, state, documents)
        else:
            state = open_chunk.initial_state(config, length)
            logits_BTV, _ = open_reader(config)(
                params | {"embed": embed}, tokens_BT, state, documents
            )
        return jnp.einsum("ttv,v->", logits_BTV, weights_V)

    gradient = jax.jit(jax.grad(asked))(params["embed"])["embedding"]
    return np.linalg.norm(np.reshape(gradient, (length, length, config.width)), axis=-1)


def equations(jaxpr):
    """All equations of a program, those inside loops and branches too, once each."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
