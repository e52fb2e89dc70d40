"""Long prompts are read as training reads: many chunks at once, and on many devices."""

from collections import deque

import jax
import numpy as np
import pytest

from rmat_jax.errors import UserError
from rmat_jax.infer.scoring import score
from rmat_jax.infer.streams import PREFILL_CHUNKS
from rmat_jax.model import RMAT
from rmat_jax.ops import context
from tests.infer.letters import (
    CONFIG,
    Letters,
    make_engine,
    one_pass,
    quiet_params,
    random_text,
    stands,
)
from tests.models import DEFAULT, memory_of, tiny

# its window is longer than a chunk
WIDE = tiny(dtype="float32", **DEFAULT | {"local.window": 12, "memory.gate": "none"})
WHOLE = PREFILL_CHUNKS * CONFIG.chunk_len


def assert_one_pass(session, config, told) -> None:
    """Sums of up to 16 terms of order 1 in another order: hundreds of float32 roundings, 6e-8."""
    logits_V, state = stands(session)
    expected_TV, expected = one_pass(config, told)
    np.testing.assert_allclose(logits_V, expected_TV[-1], atol=5e-5)
    np.testing.assert_allclose(memory_of(state), memory_of(expected), atol=5e-5)
    np.testing.assert_array_equal(state.ages_BM, expected.ages_BM)
    np.testing.assert_array_equal(state.position_B, expected.position_B)


@pytest.fixture
def calls(monkeypatch):
    """The devices along time of each call that read whole chunks."""
    found, read = [], RMAT.read

    def counted(self, *arguments):
        found.append(context.parts())
        return read(self, *arguments)

    monkeypatch.setattr(RMAT, "read", counted)
    jax.clear_caches()
    return found


@pytest.mark.parametrize(
    ("config", "devices"), [(CONFIG, 1), (CONFIG, 4), (WIDE, 8)], ids=["one", "four", "eight"]
)
def test_a_session_that_reads_long_prompts_is_one_pass(config, devices, calls):
    """From a chunk's middle too, and writing in between; two sessions share the calls."""
    rng, engine = np.random.default_rng(0), make_engine(config, devices=devices)
    sessions, told = [], []
    for length in (2 * devices * WHOLE + 13, 30):
        text = random_text(rng, length)
        sessions.append(engine.open(text))
        told.append([Letters.end, *Letters().encode(text).tolist()])
    for session, tokens in zip(sessions, told, strict=True):
        for piece in session.write_pieces(max_new_tokens=5):
            tokens += piece.tokens.tolist()
        text = random_text(rng, devices * WHOLE + 20)
        session.read(text)
        tokens += Letters().encode(text).tolist()
        assert_one_pass(session, config, tokens)
    # control: whole chunks were read, and by as many devices
    assert set(calls) == {devices}


@pytest.mark.parametrize("devices", [1, 4])
def test_the_end_of_a_document_within_a_long_prompt_begins_the_next(devices, calls):
    """What follows is read as if nothing had been, as in training."""
    engine, rng = make_engine(devices=devices), np.random.default_rng(3)
    # the second document has the last four chunks, short enough that the first would be remembered
    sizes = devices * WHOLE - 4 * CONFIG.chunk_len - 1, 4 * CONFIG.chunk_len - 1
    first, second = (random_text(rng, size) for size in sizes)

    def logits(opener):
        told = [*Letters().encode(first), opener, *Letters().encode(second)]
        return stands(engine.open(told))[0]

    alone = stands(engine.open(second))[0]
    np.testing.assert_allclose(logits(Letters.end), alone, rtol=0, atol=1e-4)
    # the controls: whole chunks were read, and another token begins no document
    assert calls and np.abs(logits(0) - alone).max() > 1e-2


def test_devices_that_share_a_text_score_what_one_does():
    """Three calls and a part. Nats are sums of a thousand float32 terms: 1e-6 of them is rounding.

    A device that passed none of them on would cost an eighth.
    """
    model, params = RMAT(WIDE), quiet_params(WIDE)
    text = np.random.default_rng(2).integers(10, size=3 * 8 * WHOLE + 40)
    (one,), (eight,) = (
        deque(score(model, params, [text], Letters.end, devices=n), maxlen=1) for n in (1, 8)
    )
    assert one.tokens == eight.tokens == len(text) + 1
    np.testing.assert_allclose(eight.nats, one.nats, rtol=2e-6)


def test_what_a_device_is_not_handed_shows(monkeypatch):
    """The control of the law above."""
    monkeypatch.setattr(context, "in_turn", lambda carry_on, start, reach=None: start)
    jax.clear_caches()
    text = random_text(np.random.default_rng(1), 4 * WHOLE)
    session = make_engine(devices=4).open(text)
    with pytest.raises(AssertionError):
        assert_one_pass(session, CONFIG, [Letters.end, *Letters().encode(text).tolist()])
    jax.clear_caches()


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (CONFIG, 9, "devices=9 must lie between 1 and 8"),
        (CONFIG, 0, "devices=0 must lie between 1 and 8"),
        (tiny(dtype="float32"), 2, "devices=2 cannot divide a model with model.memory.keeps=out"),
    ],
)
def test_devices_that_cannot_divide_a_prompt(config, devices, message):
    with pytest.raises(UserError, match=message):
        make_engine(config, devices=devices)
