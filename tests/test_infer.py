"""Decoding: prefill of any length, the device loop, and the text they write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax import infer
from rmat_jax.config import UserError
from rmat_jax.model import RMAT
from tests.models import make_params, make_tokens, tiny

CONFIG = tiny(dtype="float32", window="sliding")
MODEL = RMAT(CONFIG)
END = 10


@pytest.mark.parametrize("length", [1, 7, 8, 40, 150])
def test_prefill_is_one_pass(length):
    """150 tokens are more than PREFILL_CHUNKS chunks of 8: several calls."""
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, length)
    logits_BV, state = infer.prefill(MODEL, params, tokens_BT)
    expected, expected_state = MODEL.apply({"params": params}, tokens_BT)
    # Sums of up to 16 terms of order 1 in another order: some hundred float32 roundings of 6e-8.
    np.testing.assert_allclose(logits_BV, expected[:, -1], atol=2e-5)
    np.testing.assert_allclose(state.memory_LBMD(), expected_state.memory_LBMD(), atol=2e-5)
    np.testing.assert_array_equal(state.position_B, expected_state.position_B)


def test_prefill_of_rows_of_different_lengths_is_each_row_alone():
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, 150)
    lengths = np.array([3, 150, 64])
    logits_BV, state = infer.prefill(MODEL, params, tokens_BT, lengths=lengths)
    for row, length in enumerate(lengths):
        alone, alone_state = infer.prefill(MODEL, params, tokens_BT[row : row + 1, :length])
        np.testing.assert_allclose(logits_BV[row], alone[0], atol=2e-5)
        np.testing.assert_allclose(state.memory_LBMD()[:, row], alone_state.memory_LBMD()[:, 0], atol=2e-5)
    padded, _ = infer.prefill(MODEL, params, tokens_BT)  # control: the padding would have been read
    assert abs(np.asarray(padded[0] - logits_BV[0])).max() > 1e-2


def greedy(params, prompt, count):
    """The obvious way: read the whole text again for each token."""
    tokens = list(prompt)
    for _ in range(count):
        padded = np.pad(tokens, (0, 100 - len(tokens)))[None]
        logits, _ = read(params, padded, jnp.array([len(tokens)]))
        tokens.append(int(np.asarray(logits)[0, len(tokens) - 1].argmax()))
    return tokens[len(prompt) :]


@functools.partial(jax.jit)
def read(params, tokens_BT, lengths_B):
    return MODEL.apply({"params": params}, tokens_BT, None, None, lengths_B)


def test_greedy_text_is_the_obvious_loop_across_chunk_borders():
    params, prompt = make_params(CONFIG), make_tokens(CONFIG, 1, 13)[0]
    new = infer.generate(MODEL, params, prompt, max_new_tokens=30, temperature=0)
    np.testing.assert_array_equal(new, greedy(params, prompt, 30))


def test_seeds_and_end():
    params, prompt = make_params(CONFIG), make_tokens(CONFIG, 1, 5)[0]
    write = functools.partial(infer.generate, MODEL, params, prompt, max_new_tokens=40, temperature=2.0)
    first = write(seed=1)
    assert len(first) == 40
    np.testing.assert_array_equal(first, write(seed=1))
    assert (first != write(seed=2)).any()
    end = int(first[17])
    stopped = write(seed=1, end=end)
    np.testing.assert_array_equal(stopped, first[: list(first).index(end)])


def test_a_row_is_written_as_if_alone():
    """The same key gives the same text in any batch."""
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, 9)
    keys = jax.random.split(jax.random.key(5), 3)

    def write(rows):
        logits, state = infer.prefill(MODEL, params, tokens_BT[rows])
        return infer.decode(MODEL, params, logits, state, keys[rows], 20, END, 0, 1.5, 0.9)

    tokens, counts, _ = write(np.arange(3))
    for row in range(3):
        alone, alone_counts, _ = write(np.array([row]))
        count = int(alone_counts[0])
        assert count == counts[row]
        np.testing.assert_array_equal(tokens[row, :count], alone[0, :count])
        assert (np.asarray(tokens[row, count:]) == -1).all()


@pytest.mark.parametrize("prompt", [np.zeros(0, int), np.array([11]), np.array([-1])])
def test_prompts_that_cannot_be_read(prompt):
    with pytest.raises(UserError):
        infer.generate(MODEL, make_params(CONFIG), prompt)


@pytest.mark.parametrize("length", [1, 62, 63, 64, 150])
def test_score_is_the_loss_of_one_pass(length):
    """One call of it reads 64 tokens, the opening one included."""
    params, text = make_params(CONFIG), make_tokens(CONFIG, 1, length)[0] % END
    logits_BTV, _ = MODEL.apply({"params": params}, np.concatenate([[END], text])[None])
    log_p = jax.nn.log_softmax(logits_BTV[0])
    costs = -np.asarray(log_p)[np.arange(length + 1), np.concatenate([text, [END]])]
    for sizes in ([length], [1] * length, [length // 2, 0, length - length // 2]):
        pieces = np.split(text, np.cumsum(sizes)[:-1])
        scored = list(infer.score(MODEL, params, pieces, END))
        assert scored[-1].tokens == length + 1
        assert abs(scored[-1].nats - costs.sum()) < 1e-4  # some hundred float32 roundings of sums around 100
        assert [s.tokens for s in scored[:-1]] == list(range(64, length + 1, 64))
    other = list(infer.score(MODEL, params, [np.roll(text, 1)], END))[-1].nats if length > 1 else 0
    assert abs(other - costs.sum()) > 1e-2  # the control
