"""Prefill of any length, the device loop, what a text costs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax import infer
from rmat_jax.infer import open_chunk
from rmat_jax.infer.open_chunk import unstack_params
from rmat_jax.model import RMAT
from tests.models import DEFAULT, make_params, make_tokens, memory_of, open_reader, tiny

CONFIG = tiny(dtype="float32", **{"local.sliding": True})
MODEL = RMAT(CONFIG)
END = 10


def prefill(params, tokens_BT, lengths=None):
    """Logits and the state."""
    streams = infer.begin(MODEL, len(tokens_BT))
    streams = infer.prefill(MODEL, unstack_params(params), streams, tokens_BT, lengths)
    return streams.logits_BV, streams.state


@pytest.mark.parametrize("length", [1, 7, 8, 40, 150])
def test_prefill_is_one_pass(length):
    """150 tokens are more than PREFILL_CHUNKS chunks of 8: several calls."""
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, length)
    logits_BV, state = prefill(params, tokens_BT)
    fresh = open_chunk.initial_state(CONFIG, 3)
    expected, expected_state = open_reader(CONFIG)(params, tokens_BT, fresh)
    whole, _ = MODEL.apply({"params": params}, tokens_BT)
    np.testing.assert_allclose(expected, whole, atol=2e-5)
    # Sums of up to 16 terms of order 1 in another order: some hundred float32 roundings of 6e-8.
    np.testing.assert_allclose(logits_BV, expected[:, -1], atol=2e-5)
    np.testing.assert_allclose(memory_of(state), memory_of(expected_state), atol=2e-5)
    np.testing.assert_array_equal(state.position_B, expected_state.position_B)


def test_prefill_of_rows_of_different_lengths_is_each_row_alone():
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, 150)
    lengths = np.array([3, 150, 64])
    logits_BV, state = prefill(params, tokens_BT, lengths)
    for row, length in enumerate(lengths):
        alone, alone_state = prefill(params, tokens_BT[row : row + 1, :length])
        np.testing.assert_allclose(logits_BV[row], alone[0], atol=2e-5)
        np.testing.assert_allclose(
            memory_of(state)[:, row], memory_of(alone_state)[:, 0], atol=2e-5
        )
    # control: the padding would have been read
    padded, _ = prefill(params, tokens_BT)
    assert abs(np.asarray(padded[0] - logits_BV[0])).max() > 1e-2


def greedy(params, prompt, count):
    """The obvious way: read the whole text again for each token."""
    tokens, logprobs = list(prompt), []
    for _ in range(count):
        padded = np.pad(tokens, (0, 100 - len(tokens)))[None]
        logits, _ = read(params, padded)
        tokens.append(int(np.asarray(logits)[0, len(tokens) - 1].argmax()))
        logprobs.append(float(jax.nn.log_softmax(logits[0, len(tokens) - 2])[tokens[-1]]))
    return tokens[len(prompt) :], logprobs


@jax.jit
def read(params, tokens_BT):
    return MODEL.apply({"params": params}, tokens_BT)


def requests(left, seed=0, temperature=0.0, pauses=()):
    """Of three rows."""
    pauses_BV = np.zeros((3, CONFIG.vocab_size), bool)
    pauses_BV[:, list(pauses)] = True
    rows = np.ones(3)
    return infer.Requests(
        np.int32(rows * left), np.uint32(rows * seed), np.float32(rows * temperature),
        np.int32(0 * rows), np.float32(rows), pauses_BV,
    )  # fmt: skip


def started(params, tokens_BT, lengths):
    return infer.prefill(MODEL, unstack_params(params), infer.begin(MODEL, 3), tokens_BT, lengths)


LENGTHS = np.array([13, 8, 3])


def test_greedy_text_is_the_obvious_loop_across_chunk_borders():
    """Rows that stand at different places, and ask for different numbers of tokens; a row that asks
    for none stays.
    """
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, 13)
    left = np.array([30, 0, 17])
    streams, written = infer.decode(
        MODEL,
        unstack_params(params),
        started(params, tokens_BT, LENGTHS),
        requests(left),
        64,
        -1,
        11,
    )
    np.testing.assert_array_equal(written.count_B, left)
    np.testing.assert_array_equal(streams.written_B, left)
    np.testing.assert_array_equal(streams.state.position_B, (LENGTHS + left) % CONFIG.chunk_len)
    for row in range(3):
        tokens, logprobs = greedy(params, tokens_BT[row, : LENGTHS[row]], left[row])
        np.testing.assert_array_equal(
            written.tokens_BT[row], np.pad(tokens, (0, 64 - left[row]), constant_values=-1)
        )
        np.testing.assert_allclose(
            written.logprobs_BT[row], np.pad(logprobs, (0, 64 - left[row])), atol=2e-5
        )


def test_limit_end_and_pauses():
    """However a text is cut into calls it stays the same; `end` is not read, a token at which a row
    pauses is.
    """
    params, tokens_BT = make_params(CONFIG), make_tokens(CONFIG, 3, 13)

    def write(limit, end=-1, calls=1, known=11, **asked):
        streams, rows = started(params, tokens_BT, LENGTHS), [[], [], []]
        for _ in range(calls):
            asked_now = requests(
                np.array([40 - len(row) for row in rows]),
                seed=np.array([7, 8, 9]),
                temperature=2.0,
                **asked,
            )
            streams, written = infer.decode(
                MODEL, unstack_params(params), streams, asked_now, limit, end, known
            )
            for row in range(3):
                rows[row] += np.asarray(written.tokens_BT[row, : written.count_B[row]]).tolist()
        return rows, streams, written

    whole, last, _ = write(64)
    assert [len(row) for row in whole] == [40, 40, 40] and whole[0] != whole[1]
    cut, other, _ = write(3, calls=14)
    assert cut == whole
    np.testing.assert_array_equal(other.logits_BV, last.logits_BV)
    token = whole[0][17]
    paused, streams, written = write(64, pauses=[token])
    assert paused == [row[: row.index(token) + 1] if token in row else row for row in whole]
    assert not written.ended_B.any()
    resumed, _, _ = write(64, calls=40, pauses=[token])
    assert resumed == whole
    few, _, _ = write(64, known=3)
    assert set(np.concatenate(few)) == {0, 1, 2} < set(np.concatenate(whole))
    ended, before, written = write(64, end=token)
    assert ended == [row[: row.index(token)] if token in row else row for row in whole]
    np.testing.assert_array_equal(written.ended_B, [token in row for row in whole])
    assert before.state.position_B[0] == (LENGTHS[0] + len(ended[0])) % CONFIG.chunk_len


@pytest.mark.parametrize("options", [{}, DEFAULT], ids=["paper", "default"])
def test_no_step_copies_what_is_large(options):
    """The compiled loop copies neither the open chunk's keys and values, nor what
    is kept of it, nor the slots' keys,
    nor weights, neither a step nor a call; the slots' keys are made where a chunk closes, in a
    branch."""
    config = tiny(dtype="float32", chunk_len=24, **options)
    streams, end = (
        jax.eval_shape(lambda: infer.begin(RMAT(config), 3)),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    heads = f"{config.num_heads},{config.head_dim}"
    chunk = rf"f32\[3,{heads},24\]\S* (copy|slice|dynamic-slice)\("
    slots = rf"f32\[3,{heads},{config.memory.slots}\]\S* copy\((?!.*/branch_)"
    kept = rf"f32\[3,24,{config.width}\]\S* copy\("
    weights = rf"f32\[(1,)?{config.width},{config.mlp_width}\]\S* (copy|slice|dynamic-slice)\("

    def copies(what, decode, params):
        program = (
            decode.lower(RMAT(config), params, streams, requests(5), end, end, end)
            .compile()
            .as_text()
        )
        return len(re.findall(what, program))

    params = unstack_params(make_params(config))
    undonated = jax.jit(infer.decode.__wrapped__, static_argnums=0)
    for what in (chunk, slots, kept):
        # the control
        assert copies(what, infer.decode, params) == 0 < copies(what, undonated, params)
    # and its control: layers in a scan
    assert copies(weights, infer.decode, params) == 0
    state = jax.eval_shape(lambda: open_chunk.stack_layers(open_chunk.initial_state(config, 3)))
    read = jax.jit(
        lambda params, state: open_chunk.read(config, params, state, jnp.zeros((3, 1), jnp.int32))
    )
    assert re.search(weights, read.lower(make_params(config), state).compile().as_text())


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
        # some hundred float32 roundings of sums around 100
        assert abs(scored[-1].nats - costs.sum()) < 1e-4
        assert [s.tokens for s in scored[:-1]] == list(range(64, length + 1, 64))
    other = list(infer.score(MODEL, params, [np.roll(text, 1)], END))[-1].nats if length > 1 else 0
    # the control
    assert abs(other - costs.sum()) > 1e-2
