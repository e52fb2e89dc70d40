"""`docs/architecture.md` says enough: a model in NumPy that was written from that page alone gives
the same logits.
"""

import dataclasses
import math

import numpy as np
import pytest

from rmat_jax import PAPER, QUEUE, TRANSFORMER_XL, RMATConfig
from tests.laws import numpy_model
from tests.models import make_documents, make_params, make_tokens, reader

pytestmark = pytest.mark.usefixtures("float64")
# Both sides round each sum in an order of its own, some 1e-16 of it: 5e-15 was seen here. With
# larger parameters it was 5e-13, since `rotate` turns a negative position by -1024 and a rest, and
# rounds an angle near 1024 to 1e-13. The smallest of the controls, another epsilon, is off by 2e-6.
TOLERANCE = 1e-10
CHUNK = 8


def small(config, local=(), memory=(), **changes):
    """The arrangement at a size for tests. What is named is changed too."""
    parts = {"local": {"window": 4} | dict(local)}
    parts["memory"] = {"slots": 16, "writes": 8} | dict(memory)
    for part, values in parts.items():
        if getattr(config, part):
            parts[part] = dataclasses.replace(getattr(config, part), **values)
        else:
            parts[part] = None
    size = {"vocab_size": 11, "width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 24}
    size |= {"chunk_len": CHUNK, "dtype": "float64"}
    return dataclasses.replace(config, **size, **parts, **changes)


HYBRID, POOLED = RMATConfig(), {"slots": 4, "writes": 2}
CONFIGS = {
    "hybrid": small(HYBRID),
    "paper": small(PAPER, memory=POOLED),
    "queue": small(QUEUE),
    "transformer_xl": small(TRANSFORMER_XL, {"window": CHUNK}),
    "blocks, pooled": small(HYBRID, {"sliding": False}, POOLED, tie_embeddings=True),
    "long window, a share": small(
        HYBRID, {"window": 12}, {"read": "stream", "key_bias": None}, rope="global"
    ),
    "no full, outputs in the chunk's softmax": small(
        HYBRID, memory=POOLED | {"keeps": "outputs"}, branches=("local", "memory"), rope="none"
    ),
    "paper, slot gate": small(PAPER, memory=POOLED | {"gate": "slot"}, rope="global"),
}
# documents begin in mid-chunk, inside a run, twice in a chunk, at a border, and not at all
LENGTHS = [5, 14, 10, 2, 9], [16, 3, 21], []


def rows(config, chunks=6):
    length = chunks * CHUNK
    documents = np.stack([make_documents(lengths, length) for lengths in LENGTHS])
    return make_tokens(config, len(LENGTHS), length), documents


def difference(config):
    """The largest between the logits of the two models. Both take two calls, the second from the
    state of the first.
    """
    params = make_params(config)
    (tokens, documents), half = rows(config), 3 * CHUNK
    state, states, largest = None, [None] * len(tokens), 0.0
    for call in (slice(half), slice(half, None)):
        logits, state = reader(config)(params, tokens[:, call], state, documents[:, call])
        for row, row_tokens in enumerate(tokens):
            expected, states[row] = numpy_model.read(
                config, params, row_tokens[call], documents[row, call], states[row]
            )
            assert np.std(expected) > 0.1
            largest = max(largest, np.abs(logits[row] - expected).max())
    return largest


@pytest.mark.parametrize("name", CONFIGS)
def test_page_alone_gives_the_same_logits(name):
    assert difference(CONFIGS[name]) < TOLERANCE


def exact_gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def without_bias(config, p, *args, attend=numpy_model.attend):
    return attend(config, p | {"memory_bias": np.zeros(config.num_heads)}, *args)


def at_their_first_token(config):
    return np.arange(-config.memory.slots, 0) * (config.chunk_len / config.memory.writes)


def turned_queries(config, q_CD):
    return numpy_model.turn(config, q_CD, np.arange(len(q_CD)))


def interleaved(config, x_JD, places_J):
    """Neighbouring components as pairs."""
    pairs = numpy_model.heads(config, x_JD).reshape(config.num_heads, len(x_JD), -1, 2)
    angles_HJE = places_J[None, :, None] * numpy_model.frequencies(config)[:, None]
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles_HJE)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(config.num_heads, len(x_JD), -1)


# what a reader might have guessed, where the page did not say it
GUESSES = {
    "another epsilon": ("hybrid", "EPSILON", 1e-6),
    "exact gelu": ("hybrid", "gelu", exact_gelu),
    "slots without a bias": ("queue", "attend", without_bias),
    "slots at their first token": ("blocks, pooled", "slot_places", at_their_first_token),
    "queries of the stream turned": ("paper", "stream_queries", turned_queries),
    "neighbours as pairs": ("transformer_xl", "turn", interleaved),
}


@pytest.mark.parametrize("guess", GUESSES)
def test_control_another_guess_shows(guess, monkeypatch):
    name, attribute, value = GUESSES[guess]
    monkeypatch.setattr(numpy_model, attribute, value)
    assert difference(CONFIGS[name]) > 1000 * TOLERANCE
