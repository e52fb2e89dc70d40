"""The train step = the gradient of the plain mean loss, in any number of parts; lanes keep their
memory, row by row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmat_jax.config import IGNORE, Config, OptimConfig
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state
from rmat_jax.train.bad_steps import healthy
from rmat_jax.train.state import TrainState, init_state
from rmat_jax.train.step import eval_step, train_step
from tests.models import facts, make_documents, make_params, make_tokens, reader, tiny

pytestmark = pytest.mark.usefixtures("float64")
B, C, T = 4, 8, 16
# the step is the gradient
SGD = optax.sgd(1.0)


def make_config(accumulation=1, **model) -> Config:
    return Config(
        model=tiny(**model),
        batch_size=B,
        chunks_per_step=T // C,
        accumulation=accumulation,
        optim=OptimConfig(warmup_steps=0),
    )


def make_batch(config, seed=3):
    """Lanes with documents of their own, and unequally many tokens to score."""
    tokens = make_tokens(config.model, B, T + 1, seed)
    documents = np.stack([make_documents(lengths, T) for lengths in ([], [5], [3, 9], [16])])
    targets = np.where(np.arange(T)[None] < [[16], [9], [2], [13]], tokens[:, 1:], IGNORE)
    return {"tokens": tokens[:, :-1], "targets": targets, "documents": documents}


def make_state(config) -> TrainState:
    """In the middle of a training: lanes that have read a chunk, each another."""
    params, tokens = make_params(config.model), make_tokens(config.model, B, C, 7)
    documents = np.full((B, C), make_documents([], 1))
    _, memory = reader(config.model)(params, tokens, initial_state(config.model, B), documents)
    start, key = jnp.zeros((), jnp.int32), jax.random.key(5)
    return TrainState(start, params, SGD.init(params), key, memory, healthy())


def step(config, optimizer=SGD):
    return jax.jit(functools.partial(train_step, config, optimizer))


@functools.cache
def whole_step():
    config = make_config(**{"local.sliding": True})
    return step(config)(make_state(config), make_batch(config))


def assert_tree_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), actual, expected
    )


def test_the_step_is_the_gradient_of_the_mean_loss():
    """Written down once more, from the logits; the lanes' memory is a constant of it."""
    config = make_config(**{"local.sliding": True})
    state, batch = make_state(config), make_batch(config)

    def mean_loss(params):
        logits, _ = RMAT(config.model).apply(
            {"params": params}, batch["tokens"], state.carried, batch["documents"]
        )
        picked = jax.nn.log_softmax(logits)[
            np.arange(B)[:, None], np.arange(T)[None], batch["targets"]
        ]
        return -jnp.where(batch["targets"] == IGNORE, 0, picked).sum() / 40

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    new, sums = whole_step()
    assert_tree_close(jax.tree.map(jnp.subtract, state.params, new.params), gradient)
    assert sums.scored == 40 and new.step == 1
    np.testing.assert_allclose(sums.loss / sums.scored, loss, rtol=1e-12)
    np.testing.assert_allclose(sums.grad_norm, optax.tree.norm(gradient), rtol=1e-12)
    logits, memory = reader(config.model)(
        state.params, batch["tokens"], state.carried, batch["documents"]
    )
    assert_tree_close(facts(config.model, new.carried), facts(config.model, memory))
    assert sums.correct == (logits.argmax(-1) == batch["targets"]).sum()


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_are_one_batch(parts):
    """Also where parts score unequally many tokens; each row gets its own memory back."""
    config = make_config(parts, **{"local.sliding": True})
    new, sums = step(config)(make_state(config), make_batch(config))
    expected, expected_sums = whole_step()
    assert_tree_close(
        (new.params, facts(config.model, new.carried)),
        (expected.params, facts(config.model, expected.carried)),
    )
    assert_tree_close(sums, expected_sums)
    rows = np.moveaxis(np.asarray(new.carried.memory_LBMD()), 1, 0)
    assert all(np.abs(rows[i] - rows[j]).max() > 1e-3 for i in range(B) for j in range(i))


@pytest.mark.parametrize("parts", [1, 2])
def test_dropout_differs_by_step_and_can_be_repeated(parts):
    config = make_config(parts, dropout=0.3)
    state, batch, run = make_state(config), make_batch(config), step(config)
    first, again = run(state, batch), run(state, batch)
    jax.tree.map(np.testing.assert_array_equal, first[0].params, again[0].params)
    assert run(state.replace(step=state.step + 1), batch)[1].loss != first[1].loss
    assert run(state.replace(key=jax.random.key(6)), batch)[1].loss != first[1].loss


def test_dropout_draws_anew_in_every_part_row_chunk_and_place():
    """Equal tokens everywhere: only dropout tells them apart."""
    config = make_config(2, dropout=0.5)
    state = make_state(config).replace(carried=initial_state(config.model, B))
    equal = {name: np.zeros((B, T), int) for name in ("tokens", "targets", "documents")}
    rows = np.moveaxis(np.asarray(step(config)(state, equal)[0].carried.memory_LBMD()), 1, 0)
    assert all(np.abs(rows[i] - rows[j]).max() > 1e-3 for i in range(B) for j in range(i))

    # each place sees itself only
    alone = tiny(dropout=0.5, branches=("local",), **{"local.window": 1}, rope="none")
    logits, _ = jax.jit(
        lambda p, t: RMAT(alone).apply({"params": p}, t, rngs={"dropout": state.key})
    )(make_params(alone), equal["tokens"])
    assert len(np.unique(np.asarray(logits)[..., 0])) == B * T


def test_evaluation_with_its_memory_cut_differs_after_the_first_chunk_only():
    config = make_config(**{"local.sliding": True})
    params, batch = make_params(config.model), make_batch(config)
    batch["targets"], batch["documents"] = batch["tokens"], np.zeros((B, T), int)
    memory = initial_state(config.model, B)
    run = jax.jit(functools.partial(eval_step, config), static_argnames="cut")
    last, scores = run(params, memory, batch)
    _, cut = run(params, memory, batch, cut=True)
    change = np.abs(cut.loss_BT - scores.loss_BT)
    assert (change[:, :C] == 0).all() and (change[:, C:] > 1e-6).all()

    logits, expected = reader(config.model)(params, batch["tokens"], memory, batch["documents"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    np.testing.assert_allclose(scores.loss_BT, loss, rtol=0, atol=1e-12)
    assert_tree_close(facts(config.model, last), facts(config.model, expected))


def test_without_memory_cutting_it_changes_nothing():
    config = make_config(branches=("full", "local"), **{"local.sliding": True})
    memory, batch = initial_state(config.model, B), make_batch(config)
    run = jax.jit(functools.partial(eval_step, config), static_argnames="cut")
    _, scores = run(make_params(config.model), memory, batch)
    _, cut = run(make_params(config.model), memory, batch, cut=True)
    np.testing.assert_allclose(cut.loss_BT, scores.loss_BT, rtol=0, atol=1e-12)


def test_a_run_starts_from_its_seed_alone():
    config = make_config(dropout=0.1)
    start = jax.jit(functools.partial(init_state, config, SGD))
    a, b = start(), start()
    jax.tree.map(np.testing.assert_array_equal, (a.params, a.carried), (b.params, b.carried))
    assert (a.carried.ages_BM == 0).all() and a.step == 0
    assert a.carried.slots_LBMD.shape[1] == B
