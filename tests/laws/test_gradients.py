"""Law 4: back-propagation through what is carried spans `bptt_chunks` chunks and no more; remat
changes nothing but bytes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.model import RMAT
from rmat_jax.modules.carry import initial_state
from tests.models import DEFAULT, influence, make_params, make_tokens, name, tiny

pytestmark = pytest.mark.usefixtures("float64")
B, C, T = 2, 8, 40
t, u = np.indices((T, T))
same_group = t // (2 * C) == u // (2 * C)
CARRIES = [
    {"window": "block"},
    {"window": "sliding"},
    {"window": "sliding", "streams": ("full", "local")},
]
# a shift embeds the last token before a border again
CARRIES += [DEFAULT | {"token_shift": False}]


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("options", CARRIES, ids=name)
def test_the_gradient_ends_at_the_border_of_a_group(options, closed):
    """Groups of two chunks: across the border between groups exactly zero, inside a group through
    the carried state.
    """
    table = influence(tiny(bptt_chunks=2, **options), T, closed=closed)
    assert (table[(u > t) | ~same_group] == 0).all()
    assert (table[(u <= t) & same_group & (t // C > u // C)] > 0).any()
    assert (table[(u <= t) & (t // C == u // C)] > 0).all()


def test_control_without_a_span_it_crosses_every_border():
    assert (influence(tiny(), T, closed=True)[(u <= t) & ~same_group] > 0).all()


def loss_of(config, closed=True):
    """`params -> mean loss` over five chunks, every token scored."""
    tokens = make_tokens(config, B, T + 1)
    documents = np.arange(T)[None] // [[11], [T]]

    def loss(params):
        state = initial_state(config, B, closed=closed)
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
            state = initial_state(config, B, closed=True)
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
    config = tiny(window="sliding")
    params = make_params(config)
    loss, gradient = jax.jit(jax.value_and_grad(loss_of(config)))(params)
    for remat in ("block", "chunk", "chunk+block"):
        again, other = jax.jit(jax.value_and_grad(loss_of(tiny(window="sliding", remat=remat))))(
            params
        )
        np.testing.assert_allclose(again, loss, rtol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), other, gradient
        )


def test_control_remat_keeps_fewer_bytes():
    none, block, chunk = (kept_bytes(tiny(remat=remat), 5) for remat in ("none", "block", "chunk"))
    assert chunk < block / 2 < none / 4


@pytest.mark.parametrize("window", ["block", "sliding"])
def test_a_rematerialised_chunk_keeps_what_it_carries_and_its_inputs(window):
    """The slope of the kept bytes per chunk: the state at its border, and its tokens, targets,
    documents and positions.
    """
    config = tiny(window=window, remat="chunk")
    slope = (kept_bytes(config, 9) - kept_bytes(config, 4)) / 5
    state = initial_state(config, B, closed=True)
    # positions are 64 bits here
    inputs = B * C * (4 + 4 + 4 + 8)
    assert slope <= state.num_bytes() + inputs
    assert slope >= state.layers.slots_BMD.nbytes


def test_open_and_closed_states_have_the_same_gradients():
    config = tiny(window="sliding", memory_age="rotary", memory_pool="attention")
    params = make_params(config)
    closed, opened = (jax.jit(jax.grad(loss_of(config, closed=c)))(params) for c in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), opened, closed)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(closed))


def test_padding_has_no_gradient_and_spoils_none():
    """Inputs behind a row's length: zero gradient; and no NaN from queries with nothing to attend
    to.
    """
    config = tiny(window="sliding", vocab_size=B * 19, tie_embeddings=False)
    lengths, tokens = np.array([4, 13]), np.arange(B * 19).reshape(B, 19)
    counts = np.arange(19)[None] < lengths[:, None]

    def read(params):
        logits, state = RMAT(config).apply({"params": params}, tokens, None, None, lengths)
        return (
            jnp.where(counts[..., None], jnp.sin(logits), 0).sum()
            + jnp.sin(state.memory_LBMD()).sum()
        )

    gradient = jax.jit(jax.grad(read))(make_params(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(
        np.abs(gradient["embed"]["embedding"]).max(-1) > 0, counts.reshape(-1)
    )
