"""What a continuation costs is what one pass over all of the text says."""

import numpy as np
import pytest
import scipy.special

from rmat_jax.errors import UserError
from tests.infer.letters import CONFIG, Letters, bits, make_engine, one_pass, random_text


def test_costs_are_those_of_one_pass_and_move_nothing():
    rng, engine = np.random.default_rng(0), make_engine(CONFIG)
    prompts = [random_text(rng, length) for length in (70, 33, 5)]
    texts = [random_text(rng, length) for length in (1, 100, 17)]
    sessions = [engine.open(prompt) for prompt in prompts]
    before = [bits(session) for session in sessions]
    found = engine.costs(list(zip(sessions, texts, strict=True)))
    for prompt, text, cost in zip(prompts, texts, found, strict=True):
        tokens = [Letters.end, *Letters().encode(prompt), *(ids := Letters().encode(text))]
        logits, _ = one_pass(CONFIG, tokens)
        logprobs = scipy.special.log_softmax(logits, axis=-1)[-len(text) - 1 : -1]
        # Float32 through two layers: another split of the text rounds differently, by about 1e-6.
        np.testing.assert_allclose(
            cost.nats, -logprobs[np.arange(len(text)), ids], rtol=0, atol=2e-5
        )
        np.testing.assert_array_equal(cost.correct, logprobs.argmax(-1) == ids)
    assert [bits(session) for session in sessions] == before


def test_forgetting_costs():
    rng, engine = np.random.default_rng(1), make_engine(CONFIG)
    session = engine.open(random_text(rng, 90))
    text = random_text(rng, 40)
    kept, cut, again = engine.costs(
        [(session.fork(), text), (session.fork(forget=True), text), (session, text)]
    )
    np.testing.assert_array_equal(kept.nats, again.nats)
    # its probability was made before
    assert kept.nats[0] == cut.nats[0]
    assert np.abs(kept.nats - cut.nats).max() > 1e-3


def test_bad_input():
    engine = make_engine(CONFIG)
    with pytest.raises(UserError, match="empty text"):
        engine.costs([(engine.open(b"abc"), b"")])
