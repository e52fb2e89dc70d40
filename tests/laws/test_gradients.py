"""Law 4: back-propagation reaches all chunks of a call and none before it.

Remat changes nothing but bytes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.config import Config
from rmat_jax.infer import open_chunk
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state
from rmat_jax.train.step import totals
from tests.models import DEFAULT, influence, make_params, make_tokens, name, tiny

pytestmark = pytest.mark.usefixtures("float64")
B, C, T = 2, 8, 40
t, u = np.indices((T, T))
CARRIES = [
    {},
    {"local.sliding": True},
    {"local.sliding": True, "branches": ("full", "local")},
    DEFAULT,
]


@pytest.mark.parametrize("closed", [True, False], ids=["model", "open chunk"])
@pytest.mark.parametrize("options", CARRIES[1:], ids=name)
def test_the_gradient_crosses_the_borders_of_a_call(options, closed):
    """Inside a chunk everywhere; from chunk to chunk through what is carried."""
    table = influence(tiny(**options), T, closed=closed)
    assert (table[u > t] == 0).all()
    assert (table[(u <= t) & (t // C == u // C)] > 0).all()
    assert (table[(t // C == u // C + 1)] > 0).any()


@pytest.mark.parametrize("options", CARRIES[-1:], ids=name)
def test_the_gradient_of_a_step_ends_at_its_beginning(options):
    """`totals` of a second step: the gradient is that with the carried state held fixed."""
    config = Config(model=tiny(**options), batch_size=B, chunks_per_step=2)
    params, tokens = make_params(config.model), make_tokens(config.model, B, 4 * C + 1)
    documents, key = np.zeros((B, 4 * C), int), jax.random.key(0)

    def batch(step):
        here, after = np.s_[:, 2 * C * step : 2 * C * (step + 1)], tokens[:, 1:]
        return {
            "tokens": tokens[:, :-1][here],
            "targets": after[here],
            "documents": documents[here],
        }

    def first(params):
        return totals(config, params, initial_state(config.model, B), batch(0), key)[1]

    def second(params, carried):
        part = batch(1)
        scores, _ = RMAT(config.model).apply(
            {"params": params},
            part["tokens"],
            part["targets"],
            carried,
            part["documents"],
            method=RMAT.score,
        )
        return scores.loss_BT.sum()

    carried = first(params)
    found = totals(config, params, carried, batch(1), key)[0].grads
    fixed = jax.grad(second)(params, carried)
    through = jax.grad(lambda params: second(params, first(params)))(params)
    far = jax.tree.map(lambda a, b: np.abs(a - b).max(), through, fixed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), found, fixed)
    # the control: through the carried state it would be another
    assert max(jax.tree.leaves(far)) > 1e-6


def loss_of(config):
    """`params -> mean loss` over five chunks, every token scored."""
    tokens = make_tokens(config, B, T + 1)
    documents = np.arange(T)[None] // [[11], [T]]

    def loss(params):
        state = initial_state(config, B)
        scores, _ = RMAT(config).apply(
            {"params": params}, tokens[:, :-1], tokens[:, 1:], state, documents, method=RMAT.score
        )
        return scores.loss_BT.mean()

    return loss


def kept_bytes(config, chunks):
    """What the forward pass of `chunks` chunks keeps for the backward pass, inputs and parameters
    included.
    """
    tokens = jnp.zeros((B, chunks * C), jnp.int32)

    def pullback(params):
        def loss(params):
            state = initial_state(config, B)
            return (
                RMAT(config)
                .apply({"params": params}, tokens, tokens, state, method=RMAT.score)[0]
                .loss_BT.sum()
            )

        return jax.vjp(loss, params)[1]

    return sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(jax.eval_shape(pullback, make_params(config)))
    )


def test_remat_changes_no_number():
    config = tiny(**DEFAULT)
    params = make_params(config)
    loss, gradient = jax.jit(jax.value_and_grad(loss_of(config)))(params)
    for remat in ("block", "chunk", "chunk+block"):
        again, other = jax.jit(jax.value_and_grad(loss_of(tiny(remat=remat, **DEFAULT))))(params)
        np.testing.assert_allclose(again, loss, rtol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), other, gradient
        )


def test_control_remat_keeps_fewer_bytes():
    none, block, chunk = (kept_bytes(tiny(remat=remat), 5) for remat in ("none", "block", "chunk"))
    assert chunk < block / 2 < none / 4


@pytest.mark.parametrize("sliding", [False, True])
def test_a_rematerialised_chunk_keeps_what_it_carries_and_its_inputs(sliding):
    """The slope of the kept bytes per chunk: the state at its border, and its tokens, targets
    and documents.
    """
    config = tiny(remat="chunk", **{"local.sliding": sliding})
    slope = (kept_bytes(config, 9) - kept_bytes(config, 4)) / 5
    state = initial_state(config, B)
    inputs = B * C * (4 + 4 + 4)
    assert slope <= state.num_bytes() + inputs
    assert slope >= state.slots_LBMD.nbytes


def test_padding_has_no_gradient_and_spoils_none():
    """Inputs behind a row's length: zero gradient; and no NaN from queries with nothing to attend
    to.
    """
    config = tiny(vocab_size=B * 19, tie_embeddings=False, **DEFAULT)
    lengths, tokens = np.array([4, 13]), np.arange(B * 19).reshape(B, 19)
    counts = np.arange(19)[None] < lengths[:, None]

    def read(params):
        state = open_chunk.stack_layers(open_chunk.initial_state(config, B))
        x_BTD, state = open_chunk.read(config, params, state, tokens, None, lengths)
        logits = open_chunk.logits(config, params, x_BTD)
        kept = jnp.where(state.ages_BM[None, :, :, None] > 0, state.layers.slots_BMD, 0)
        return jnp.where(counts[..., None], jnp.sin(logits), 0).sum() + jnp.sin(kept).sum()

    gradient = jax.jit(jax.grad(read))(make_params(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(
        np.abs(gradient["embed"]["embedding"]).max(-1) > 0, counts.reshape(-1)
    )
