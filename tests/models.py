"""Tiny models for the tests: configs that cover the options, parameters without special values,
documents, streams in pieces.
"""

import functools
import itertools
import random

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import PAPER, RMATConfig
from rmat_jax.model import RMAT
from rmat_jax.modules.carry import NOBODY, State, initial_state

# Sizes that differ wherever they may, and a queue that is no multiple of the writes.
TINY = RMATConfig(
    **PAPER,
    vocab_size=11,
    width=8,
    num_layers=2,
    num_heads=2,
    mlp_width=12,
    chunk_len=8,
    window_len=4,
    memory_slots=5,
    memory_writes=2,
    dtype="float64",
)
# The options of RMATConfig's defaults, where PAPER has others.
DEFAULT = {key: getattr(RMATConfig(), key) for key in (*PAPER, "memory_slots", "memory_writes")}
OPTIONS = {
    "streams": (("full", "local", "memory"), ("local", "memory")),
    "window": ("block", "sliding"),
    "fusion": ("layer", "head", "joint"),
    "gate": ("evicted", "newest", "none"),
    "gate_form": ("gru", "blend"),
    "gate_scope": ("channel", "slot"),
    "gate_curve": ("sigmoid", "clipped"),
    "memory_pool": ("mean", "attention"),
    "memory_source": ("output", "input"),
    "memory_age": ("none", "rotary", "tokens"),
    "rope": ("per_head", "global", "none"),
    "tie_embeddings": (True, False),
    "token_shift": (False, True),
}
FEWER_STREAMS = [
    {"streams": ("full", "memory"), "gate": "newest", "memory_age": "rotary"},
    {"streams": ("full", "local"), "window": "sliding"},
    {"streams": ("local",), "window": "sliding", "rope": "global"},
    {"streams": ("full",), "tie_embeddings": False},
    DEFAULT,
]


def tiny(**changes) -> RMATConfig:
    return RMATConfig(**{**TINY.__dict__, **changes})


def covering(strength: int = 2, **options) -> list[dict]:
    """Few combinations that hold all values of any two (or `strength`) options that go together, of
    500 drawn at random.
    """
    # of 40 seeds the one with the fewest for OPTIONS, 13
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


COVERING = covering(**OPTIONS) + FEWER_STREAMS


def name(options: dict) -> str:
    """A test's id: the values, one after the other."""
    return "-".join("+".join(v) if isinstance(v, tuple) else str(v) for v in options.values())


@functools.cache
def make_params(config: RMATConfig, seed: int = 0) -> dict:
    """Parameters in which nothing is zero, one or equal: a term that is left out shows."""
    rng = np.random.default_rng(seed)
    model = RMAT(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda x: rng.normal(scale=0.35, size=x.shape).astype(x.dtype), shapes)


@functools.cache
def reader(config: RMATConfig):
    """`(params, tokens, state, documents, lengths) -> (logits, state)`, compiled once for a shape."""

    @jax.jit
    def read(params, tokens_BT, state=None, documents=None, lengths=None):
        return RMAT(config).apply({"params": params}, tokens_BT, state, documents, lengths)

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
    state: State | None = None,
    between=lambda s: s,
):
    """Reads [B, T] in calls, each of a width and as many of each row's next tokens as `lengths`
    says.

    Args:
        config: the model's.
        params: its parameters.
        tokens: [B, T].
        documents: [B, T], or None.
        calls: (width, lengths): room for tokens, and how many tokens of each row fill it; the rest
            is filled with noise. `lengths=None` stands for a full call.
        state: before the first call.
        between: is applied to the state after each call.

    Returns:
        Logits [B, T, V], NaN where nothing was read, and the last state.
    """
    batch, total = tokens.shape
    state = initial_state(config, batch) if state is None else state
    read, next_B = reader(config), np.zeros(batch, int)
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
        logits, state = read(params, part, state, owners, lengths)
        logits_BTV[row, place] = np.asarray(logits)[row, column]
        state, next_B = between(state), next_B + lengths_B
    return logits_BTV, state


def facts(config: RMATConfig, state: State) -> dict[str, np.ndarray]:
    """What a state means: everything in it that a later token can see, zeros elsewhere."""
    out = {"document": state.document_B}
    if config.token_shift:
        out["token"] = state.token_B
    layers = state.layers

    def seen(mask_BJ, x_LBHEJ):
        return np.where(np.asarray(mask_BJ)[None, :, None, None], x_LBHEJ, 0)

    if config.has_memory:
        out |= {"memory": state.memory_LBMD(), "ages": state.ages_BM}
    if config.has_window_carry:
        here = state.window_documents_BW == state.document_B[:, None]
        out["window_keys"], out["window_values"] = (
            seen(here, layers.window_keys_BHEW),
            seen(here, layers.window_values_BHEW),
        )
    if not state.is_closed:
        here = (state.open_documents_BC == state.document_B[:, None]) & (
            state.open_documents_BC != NOBODY
        )
        out |= {"position": state.position_B, "here": here}
        out["keys"], out["values"] = (
            seen(here, layers.open.keys_BHEC),
            seen(here, layers.open.values_BHEC),
        )
        if config.has_memory:
            written = state.ages_BM > 0
            out["memory_keys"] = seen(written, layers.open.memory_keys_BHEM)
            out["memory_values"] = seen(written, layers.open.memory_values_BHEM)
            weight, total = layers.open.pool.weight_BK, layers.open.pool.sum_BKD
            out["pool"] = np.where(
                weight[..., None] > 0, total / np.where(weight > 0, weight, 1)[..., None], 0
            )
            out["pool_weight"] = np.where(weight > 0, weight * np.exp(layers.open.pool.peak_BK), 0)
    return {key: np.asarray(value) for key, value in out.items()}


def assert_same(actual: dict, expected: dict, tolerance: float) -> None:
    """All facts of two states are equal, to an absolute tolerance."""
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=0, atol=tolerance, err_msg=key)


def influence(
    config: RMATConfig, length: int, documents=None, *, closed: bool = False
) -> np.ndarray:
    """[T, T]: the size of the gradient of logit t with respect to input u, by back-propagation.

    T equal rows stand side by side; row t asks about its logit t, and every place of every row has
    a token id of its own, so that a row of the embedding table's gradient is the gradient with
    respect to one input.
    """
    config = tiny(**{**config.__dict__, "vocab_size": length**2, "tie_embeddings": False})
    rng = np.random.default_rng(1)
    params = dict(make_params(config))
    params["embed"] = {"embedding": np.tile(rng.normal(size=(length, config.width)), (length, 1))}
    weights_V = rng.normal(size=config.vocab_size)
    tokens_BT = np.arange(length**2).reshape(length, length)
    documents = None if documents is None else np.tile(documents, (length, 1))
    state = initial_state(config, length, closed=closed)

    def asked(embed):
        logits_BTV, _ = RMAT(config).apply(
            {"params": params | {"embed": embed}}, tokens_BT, state, documents
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
