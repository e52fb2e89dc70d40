"""However many chunks the layers take at once, and however attention is computed, the model is the
same: logits, state, loss and gradients of the obvious code, chunk after chunk.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmat_jax.config import Config
from rmat_jax.errors import UserError
from rmat_jax.model import RMAT
from rmat_jax.modules import block, documents
from rmat_jax.ops import fused
from rmat_jax.ops.losses import score
from tests.models import COVERING, DEFAULT, QUEUE, make_params, make_tokens, name, tiny

pytestmark = pytest.mark.usefixtures("float64")
B, C, CHUNKS = 2, 8, 4
T = CHUNKS * C
# Documents begin inside chunks, at their borders, and twice in one chunk; ids come again.
DOCUMENTS = np.stack(
    [np.repeat([0, 1, 2, 0, 3], [11, 2, 3, 8, 8]), np.repeat([4, 0, 4], [8, 8, 16])]
)
ONE = np.zeros((B, T), int)
# Rounding of float64 (1e-16) over some hundred terms, in another order.
CLOSE = 1e-10


def results(config, documents=DOCUMENTS):
    """Logits and state of a call that goes on from another, and its gradient."""
    params, tokens = make_params(config), make_tokens(config, B, 2 * T + 1)
    obvious = dataclasses.replace(config, chunks_at_once=1, attention="obvious")
    before = _before(obvious, documents is DOCUMENTS)

    @jax.jit
    def run(params, before):
        def loss(params, slots):
            state = before if slots is None else before.replace(slots_LBMD=slots)
            logits, state = RMAT(config).apply(
                {"params": params}, tokens[:, T : 2 * T], state, documents
            )
            scores = score(logits, tokens[:, T + 1 :])
            return (scores.loss_BT * jnp.linspace(1, 2, T)[None]).sum(), (logits, state)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, before.slots_LBMD)

    gradient, (logits, state) = run(params, before)
    return {"logits": logits, "state": state, "gradient": gradient}


@functools.cache
def _before(config, many):
    """The state after a first call of many documents or one, by the obvious code."""
    first, ids = make_tokens(config, B, T), DOCUMENTS if many else ONE
    return jax.jit(RMAT(config).apply)({"params": make_params(config)}, first, None, ids)[1]


def farthest(found, wanted):
    """The largest difference of any leaf, relative to the leaf's largest value."""
    return max(
        float(jnp.abs(x - y).max() / jnp.maximum(jnp.abs(y).max(), 1e-3)) if x.size else 0.0
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    )


# every second one is slow, from the last backwards, which is the default
HALF = [pytest.param(x, marks=[pytest.mark.slow] * (i % 2)) for i, x in enumerate(COVERING[::-1])]


@pytest.mark.parametrize("options", HALF, ids=name)
def test_every_schedule_and_path_is_the_obvious_code_chunk_by_chunk(options):
    obvious = tiny(**options, attention="obvious")
    wanted = results(dataclasses.replace(obvious, chunks_at_once=1))
    waits = obvious.memory and obvious.memory.keeps_outputs
    schedules = [(1, "xla"), (2, "xla"), (4, "obvious")]
    for at_once, attention in schedules[:1] if waits else schedules[1:]:
        changes = {"chunks_at_once": at_once, "attention": attention}
        found = results(dataclasses.replace(obvious, **changes))
        assert farthest(found, wanted) < CLOSE, changes


def test_slots_that_outnumber_the_chunks_at_once():
    """Queues of three and of eight chunks, read four at a time: the gate's scan has a rest."""
    for slots in (24, 64):
        options = DEFAULT | {"memory.slots": slots}
        wanted = results(tiny(**options, chunks_at_once=1), ONE)
        assert farthest(results(tiny(**options, chunks_at_once=4), ONE), wanted) < CLOSE
    # the control: a shorter queue is another model
    assert farthest(results(tiny(**DEFAULT), ONE)["logits"], wanted["logits"]) > 1e-6


@pytest.mark.parametrize("scores", [1, 1200], ids=["heads one by one", "rows in pieces"])
@pytest.mark.parametrize("options", [DEFAULT, {"local.sliding": True}], ids=["hybrid", "paper"])
def test_scores_that_do_not_fit_are_made_in_pieces(monkeypatch, options, scores):
    """1,200 scores are two heads of 8 queries and 24 keys three times: rows go in twos."""
    wanted, cut = results(tiny(**options, attention="xla")), []
    recomputed = fused._recomputed

    def counted(band, q_BSHE, *rest):
        cut.append(q_BSHE.shape[0] * q_BSHE.shape[2])
        return recomputed(band, q_BSHE, *rest)

    monkeypatch.setattr(fused, "SCORES", scores)
    monkeypatch.setattr(fused, "_recomputed", counted)
    assert farthest(results(tiny(**options, attention="xla")), wanted) < CLOSE
    # the control: they were cut
    assert min(cut) == 1 if scores == 1 else 1 < min(cut) < 2 * B * CHUNKS


@pytest.mark.parametrize("branch", ["full", "local", "memory"])
def test_control_each_branch_needs_its_band(monkeypatch, branch):
    """A path that is shown one token more, or one slot less, is another function."""
    options = {"local.sliding": True, "attention": "xla"}
    wanted = results(tiny(**options))["logits"]

    def wrong(config, which, *seen):
        keys, band, tile = documents.seen(config, which, *seen)
        if which == branch == "memory":
            keys = keys._replace(documents_BJ=keys.documents_BJ.at[:, -1].set(-1))
        elif which == branch:
            band = band._replace(first=band.first - 1)
        return keys, band, tile

    monkeypatch.setattr(block, "seen", wrong)
    assert farthest(results(tiny(rope_base=9_997.0, **options))["logits"], wanted) > 1e-6


@pytest.mark.parametrize("kept", ["slots", "gate"])
def test_control_the_memory_of_the_group_is_read(monkeypatch, kept):
    """Without what the chunks of a group wrote, or without the gate's scan, the logits differ."""
    wanted = results(tiny(**DEFAULT))["logits"]
    if kept == "gate":
        other = tiny(**DEFAULT | {"memory.gate": "none"})
        params = make_params(tiny(**DEFAULT))
        params["layers"]["memory"].pop("gate")
        tokens = make_tokens(other, B, 2 * T + 1)[:, :T]
        logits, _ = RMAT(other).apply({"params": params}, tokens, None, DOCUMENTS)
    else:
        write = block.Block.write

        def forgets(self, slots_BMD, kept_BSD, at):
            queue_BMD, line_BJD = write(self, slots_BMD, kept_BSD, at)
            return queue_BMD, line_BJD.at[:, slots_BMD.shape[1] :].set(0)

        monkeypatch.setattr(block.Block, "write", forgets)
        logits = results(tiny(rope_base=9_996.0, **DEFAULT))["logits"]
    assert farthest(logits, wanted) > 1e-6


@pytest.mark.parametrize("options", [DEFAULT, QUEUE], ids=["hybrid", "queue"])
def test_far_positions_turn_as_exactly_as_near_ones(options):
    """In float32 the logits of a group of 600 chunks differ from those of single chunks by rounding
    alone, at its end as at its beginning.
    """
    config = tiny(**options, dtype="float32")
    tokens = make_tokens(config, 1, 600 * C)
    found, wanted = (
        RMAT(dataclasses.replace(config, chunks_at_once=at_once)).apply(
            {"params": make_params(config)}, tokens
        )[0]
        for at_once in (600, 1)
    )
    distance_T = np.abs(found - wanted).max((0, 2)) / np.abs(wanted).max()
    assert distance_T.max() < 5e-5
    assert distance_T[-1000:].mean() < 3 * distance_T[:1000].mean() + 1e-7


BFLOAT16 = {
    "width": 32,
    "chunk_len": 128,
    "local.window": 64,
    "memory.slots": 256,
    "memory.writes": 128,
    "dtype": "bfloat16",
    "rope_base": 100.0,
}
KERNELS = {
    "hybrid": DEFAULT | BFLOAT16,
    "stream": DEFAULT | BFLOAT16 | {"memory.read": "stream"},
    "outputs": BFLOAT16 | {"local.sliding": True, "memory.slots": 128, "memory.writes": 128},
    "transformer_xl": {"branches": ("local",)} | BFLOAT16 | {"local.sliding": True},
}


def agrees(options, path):
    """Whether losses and gradients by a path are as near to float32 as the obvious code's.

    bfloat16 has 8 bits: single values differ by some of 2^-8. So all of them together are held to
    three times the error of the obvious code in bfloat16. A single leaf may be off by more: the
    gradient of the slots' bias is the small rest of large terms.
    """
    length, sizes = 4 * 128, [100, 28, 200, 184]
    ids = np.repeat([[0, 1, 2, 3]], 2, axis=0).repeat(sizes, axis=1)
    config = tiny(**options)
    tokens = make_tokens(config, 2, length)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), make_params(config))

    def run(**changes):
        other = dataclasses.replace(config, **changes)

        def loss(params):
            scores, _ = RMAT(other).apply(
                {"params": params}, tokens, (tokens + 1) % 11, None, ids, method=RMAT.score
            )
            return scores.loss_BT.mean(), scores.loss_BT

        (_, losses), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return [losses, *jax.tree.leaves(gradient)]

    exact, rounded, found = (
        run(dtype="float32", attention="obvious"),
        run(attention="obvious"),
        run(attention=path),
    )
    rounded, found = (
        [jnp.abs(x - y) / jnp.abs(x).mean().clip(1e-9) for x, y in zip(exact, some, strict=True)]
        for some in (rounded, found)
    )
    together = np.sqrt([sum((x**2).sum() for x in some) for some in (rounded, found)])
    leaves = [z.mean() <= 8 * y.mean() + 0.25 for y, z in zip(rounded, found, strict=True)]
    return together[1] <= 3 * together[0] and all(leaves)


@pytest.fixture
def on_cpu(monkeypatch):
    """Splash attention is interpreted; JAX's own code stands for cuDNN's kernel."""
    monkeypatch.setattr(fused, "INTERPRET", True)
    monkeypatch.setattr(fused, "CUDNN", "xla")


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("hybrid", "cudnn", marks=pytest.mark.slow),
        ("hybrid", "splash"),
        pytest.param("outputs", "cudnn", marks=pytest.mark.slow),
        pytest.param("stream", "splash", marks=pytest.mark.slow),
        pytest.param("transformer_xl", "splash", marks=pytest.mark.slow),
    ],
)
def test_kernels_are_given_what_the_obvious_code_sees(name, path):
    assert agrees(KERNELS[name], path)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "path, cut",
    [pytest.param("cudnn", "documents", marks=pytest.mark.slow), ("splash", "bias")],
)
def test_control_kernels_need_the_bias_and_the_documents(monkeypatch, path, cut):
    if cut == "bias":
        biased = fused._biased
        monkeypatch.setattr(fused, "_biased", lambda band, q, k, bias: biased(band, q, k, 0 * bias))
    else:
        kernel = getattr(fused, f"_{path}")
        monkeypatch.setattr(
            fused, f"_{path}", lambda *inputs: kernel(*inputs[:-2], *(0 * x for x in inputs[-2:]))
        )
    # another rope_base: the tests' own cache of compiled programs must not know it
    options = KERNELS["hybrid"] | {"rope_base": 101.0 if cut == "bias" else 102.0}
    assert not agrees(options, path)


def test_what_a_path_cannot_take_is_said_in_one_line():
    tokens = jnp.zeros((1, T), jnp.int32)
    refused = {
        "cudnn": ({"dtype": "float32"}, "model.attention=cudnn takes model.dtype=bfloat16, not fl"),
        "splash": ({"dtype": "bfloat16", "width": 16}, "=splash takes queries and keys in mult"),
    }
    for path, (options, message) in refused.items():
        config = tiny(**DEFAULT, **options, attention=path)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(RMAT(config).init, jax.random.key(0), tokens)
    with pytest.raises(UserError, match="chunks_at_once=2 must be 1 with model.memory.keeps=outp"):
        tiny(chunks_at_once=2)
    with pytest.raises(UserError, match="chunks_at_once=3 must divide chunks_per_step=4; try"):
        Config(model=tiny(**DEFAULT, chunks_at_once=3), chunks_per_step=4)
