"""Law 5: one device = any mesh = pmap, and parameters, optimiser state and time really are divided
as the rules say.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from rmat_jax.config import Config, MeshConfig, OptimConfig
from rmat_jax.errors import UserError
from rmat_jax.ops import context
from rmat_jax.plan import collectives
from rmat_jax.train import heldout, parallel, sharding
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.step import Totals, totals
from tests.models import DEFAULT, tiny

B, STEPS = 16, 20
MESHES = {
    "data": MeshConfig(data=8),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=1, tensor=8),
    "context": MeshConfig(data=1, context=8),
    "lanes and context": MeshConfig(data=2, context=4),
    "parameters and context": MeshConfig(data=1, fsdp=2, tensor=2, context=2),
    "pmap": MeshConfig(data=8, parallelism="pmap"),
}
ONE = MeshConfig(data=1)

# float32 sums of some 500 terms, taken in another order, differ by about sqrt(500) * 6e-8 = 1.3e-6
# of their size. Adam passes the relative error of a gradient on to its update, lr = 1e-2, twenty
# times: 3e-7. Training may let errors grow: 30 times that.
TOLERANCE = 1e-5


def make_config(mesh: MeshConfig = ONE, **model) -> Config:
    """With all that could depend on where a lane is: documents, memory, a carried window, dropout,
    accumulation.
    """
    options = {"vocab_size": 16, "width": 32, "num_heads": 8, "mlp_width": 64, **DEFAULT}
    options |= {"dtype": "float32", "remat": "chunk+block", "dropout": 0.1}
    return Config(
        model=tiny(**(options | model)),
        optim=OptimConfig(warmup_steps=2, learning_rate=1e-2),
        mesh=mesh,
        batch_size=B,
        chunks_per_step=8,
        accumulation=2,
        steps=100,
    )


def make_batch(config: Config, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    tokens = rng.integers(0, config.model.vocab_size, (B, config.segment_len + 1), np.int32)
    documents = 100 * step + np.cumsum(
        rng.random((B, config.segment_len)) < 0.05, axis=1, dtype=np.int32
    )
    targets = np.where(rng.random((B, config.segment_len)) < 0.9, tokens[:, 1:], -1)
    return {"tokens": tokens[:, :-1], "targets": targets.astype(np.int32), "documents": documents}


@functools.cache
def program(mesh: MeshConfig):
    """The mesh, what makes the first state, and the train step."""
    config, devices = make_config(mesh), sharding.make_mesh(mesh)
    optimizer = make_optimizer(config)
    return (
        devices,
        parallel.make_init(config, optimizer, devices),
        parallel.make_train_step(config, optimizer, devices),
    )


@functools.cache
def trained(mesh: MeshConfig, lane_lost: bool = False):
    """The state after some steps, and the mean loss of each."""
    devices, init, step = program(mesh)
    state, losses, rows = init(), [], sharding.local_rows(devices, B)
    for index in range(STEPS):
        batch = make_batch(make_config(mesh), index)
        if lane_lost:
            batch["targets"][0] = -1
        state, sums = step(state, sharding.global_batch(devices, B, rows, batch))
        losses.append(float(sums.loss) / int(sums.scored))
    return state, np.array(losses)


def assert_close(actual, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a), np.asarray(b), rtol=0, atol=tolerance
        ),
        actual,
        expected,
    )


FEWER = {f"context {n}": MeshConfig(data=1, context=n) for n in (2, 4)}
# other meshes have these axes too
SLOW = ("fsdp", "tensor", "data", "lanes and context", "parameters and context", *FEWER)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MESHES | FEWER],
)
def test_a_mesh_trains_like_one_device(name):
    state, losses = trained((MESHES | FEWER)[name])
    expected, expected_losses = trained(ONE)
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=TOLERANCE)
    assert_close(state.params, expected.params, TOLERANCE)
    # through all layers and chunks
    assert_close(state.carried, expected.carried, 10 * TOLERANCE)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", ["all", "pmap"])
def test_the_step_leaves_nothing_of_the_state_it_was_given(name):
    devices, init, step = program(MESHES[name])
    state, batch = init(), make_batch(make_config(), 0)
    step(state, sharding.global_batch(devices, B, range(B), batch))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))


def test_control_a_lane_that_does_not_count_shows():
    state, losses = trained(MESHES["data"], lane_lost=True)
    expected, expected_losses = trained(ONE)
    assert abs(losses - expected_losses).max() > 100 * TOLERANCE
    with pytest.raises(AssertionError):
        assert_close(state.params, expected.params, 100 * TOLERANCE)


PAPER = {"memory.keeps": "outputs", "memory.read": "stream", "memory.gate": "gru"}
# more slots than a device's chunks write, where eight devices share eight chunks
LONG = {"memory.slots": 24, "local.window": 8}
OPTIONS = {
    "plain": {"local.sliding": False, "memory.gate": "none", "remat": "none"},
    "paper": PAPER | {"remat": "block", "tie_embeddings": True},
    "global rope": PAPER | {"rope": "global", "remat": "chunk"},
    "default": {},
    "all": {"rope": "none"},
    "long": LONG,
    "long gru": LONG | {"memory.gate": "gru"},
    "long queue": LONG | {"memory.gate": "none", "token_shift": False, "remat": "none"},
    "pooled": {"memory.writes": 2, "memory.slots": 6, "memory.read": "stream"},
    "no memory": {"branches": ("local",), "local.window": 8},
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 2, 2, 2), "default"),
        ((2, 1, 1, 4), "long gru"),
        pytest.param((1, 1, 1, 8), "long", marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), "global rope", marks=pytest.mark.slow),
        pytest.param((1, 1, 8, 1), "all", marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), "default", marks=pytest.mark.slow),
        pytest.param((1, 1, 1, 8), "long queue", marks=pytest.mark.slow),
        pytest.param((1, 1, 1, 2), "all", marks=pytest.mark.slow),
        pytest.param((1, 1, 1, 4), "pooled", marks=pytest.mark.slow),
        pytest.param((1, 1, 1, 4), "no memory", marks=pytest.mark.slow),
        pytest.param((1, 2, 4, 1), "paper", marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), "plain", marks=pytest.mark.slow),
    ],
)
def test_every_gradient_is_that_of_one_device(shape, name):
    """In float64, where only a wrong program differs. Left to divide the whole step, XLA (jax
    0.10.2) computed wrong gradients on (2, 2, 2), silently: hence `sharding.spread`, and this test.
    """
    config = make_config(dtype="float64", dropout=0.1, **OPTIONS[name])
    state = jax.eval_shape(functools.partial(parallel.init_state, config, optax.identity()))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape) * 0.3, state.params)
    carried = parallel.init_state(config, optax.identity()).carried
    if config.model.memory:
        filled = jnp.asarray(rng.normal(size=carried.slots_LBMD.shape))
        carried = carried.replace(slots_LBMD=filled, ages_BM=jnp.ones_like(carried.ages_BM))
    inputs = params, carried, make_batch(config, 0), jax.random.key(1)

    mesh = sharding.make_mesh(MeshConfig(*shape))
    specs = sharding.specs(mesh, {"params": params})["params"]
    some = functools.partial(totals, config)
    expected, expected_carried = jax.jit(some)(*inputs)
    placed = (
        sharding.shardings(mesh, {"params": params})["params"],
        sharding.shardings(mesh, carried),
    )
    summed = sharding.Summed(Totals(specs, P(), P(), P()))
    spread = sharding.spread(mesh, some, summed, sharding.CARRIED)
    actual, actual_carried = jax.jit(
        spread, in_shardings=(*placed, sharding.batch_sharding(mesh), None)
    )(*inputs)
    scale = optax.tree.norm(expected.grads)
    # eps = 1e-16, thousands of terms
    assert_close(actual.grads, expected.grads, 1e-12 * scale)
    assert_close(actual_carried, expected_carried, 1e-11)
    assert scale > 1


def heldout_bits(mesh: MeshConfig | None, cut: bool = False) -> np.ndarray:
    """The bits of held-out tokens of a model whose memory matters, a lane's time over the mesh."""
    config = make_config(dtype="float64")
    optimizer = optax.identity()
    state = jax.eval_shape(functools.partial(parallel.init_state, config, optimizer))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape) * 0.3, state.params)
    batches = [make_batch(config, index) for index in range(2)]
    batches = [b | {"offsets": b["documents"]} for b in batches]
    devices = mesh and sharding.make_mesh(mesh)
    heldout._step.clear_cache()
    return heldout.evaluate_heldout(config, params, batches, None, mesh=devices, cut=cut).bits


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cut", [False, True])
def test_evaluation_divides_time(cut):
    """Where chunks are read one by one the devices of `context` compute the same."""
    found = heldout_bits(MESHES["lanes and context"], cut=cut)
    np.testing.assert_allclose(found, heldout_bits(None, cut=cut), rtol=0, atol=1e-11)


def handed(start) -> str:
    """What crosses the border between two devices, by its shape."""
    leaves = jax.tree.leaves(start)
    if leaves[0].ndim == 2:
        if leaves[0].dtype != jnp.int32:
            return "the gate's numbers"
        return "ages" if leaves[0].shape[1] == DEFAULT["memory.slots"] else "the window's documents"
    return {1: "document and token", 3: "slots", 4: "window"}[leaves[0].ndim]


@pytest.mark.usefixtures("float64")
def test_control_all_that_is_handed_over_counts(monkeypatch):
    hand_over, seen = context.in_turn, set()
    whole = heldout_bits(None)

    def in_turn(carry_on, start, reach=None):
        seen.add(handed(start))
        return start if handed(start) == lost else hand_over(carry_on, start, reach)

    monkeypatch.setattr(context, "in_turn", in_turn)
    lost = None
    assert abs(heldout_bits(MESHES["context"]) - whole).max() < 1e-11
    assert len(seen) == 6
    for lost in sorted(seen):
        assert abs(heldout_bits(MESHES["context"]) - whole).max() > 1e-4, lost


@pytest.mark.parametrize(
    "name", ["all", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW[:2])]
)
def test_parameters_and_optimiser_state_are_divided_as_the_rules_say(name):
    """Counted in bytes on each device, after a step as after the start."""
    mesh = sharding.make_mesh(MESHES[name])
    state, _ = trained(MESHES[name])
    expected = {part: 0.0 for part in ("params", "opt_state", "carried")}
    actual = {part: np.zeros(8) for part in expected}
    for part in expected:
        tree = {part: getattr(state, part)}
        leaves, specs = (
            jax.tree.leaves(tree),
            jax.tree.leaves(sharding.specs(mesh, tree), is_leaf=lambda x: isinstance(x, P)),
        )
        for leaf, spec in zip(leaves, specs, strict=True):
            axes = [
                axis
                for entry in spec
                if entry
                for axis in (entry if isinstance(entry, tuple) else (entry,))
            ]
            expected[part] += leaf.nbytes / np.prod([mesh.shape[axis] for axis in axes], initial=1)
            for shard in leaf.addressable_shards:
                actual[part][shard.device.id] += shard.data.nbytes
        np.testing.assert_array_equal(actual[part], expected[part])
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    parts = {"all": 4, "fsdp": 8, "tensor": 8}[name]
    # the rest is norms and biases, which everybody has
    matrices = whole * 0.9
    assert expected["params"] < matrices / parts + (whole - matrices)
    assert expected["opt_state"] < 2.1 * expected["params"]


def test_control_without_rules_every_device_holds_everything():
    state, _ = trained(ONE)
    copies = jax.device_put(state.params, sharding.replicated(sharding.make_mesh(MESHES["all"])))
    held = sum(leaf.addressable_shards[3].data.nbytes for leaf in jax.tree.leaves(copies))
    assert held == sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))


def test_a_leaf_without_a_rule_is_named():
    mesh = sharding.make_mesh(MESHES["all"])
    with pytest.raises(
        UserError, match=r"no rule .* where params/layers/extra/kernel \[2, 3\] lives"
    ):
        sharding.specs(mesh, {"params": {"layers": {"extra": {"kernel": np.zeros((2, 3))}}}})


@pytest.mark.parametrize(
    ("mesh", "changes", "message"),
    [
        (
            MeshConfig(data=16),
            {},
            "mesh.data=16 x mesh.fsdp=1 x mesh.context=1 x mesh.tensor=1 needs 16 devices, there "
            "are 8",
        ),
        (MeshConfig(fsdp=3), {}, "is 6 of 8 devices; make the product 8"),
        (MeshConfig(data=8), {"batch_size": 24}, "batch_size=24 must be a multiple of .* = 16"),
        (
            MeshConfig(data=4, tensor=2),
            {"vocab_size": 17},
            "mesh.tensor=2 must divide model.vocab_size=17; try model.vocab_size=18",
        ),
        (
            MeshConfig(data=2, tensor=4),
            {"num_heads": 2},
            "mesh.tensor=4 must divide model.num_heads=2",
        ),
        (
            MeshConfig(data=1, context=8),
            {"memory.keeps": "outputs"},
            "mesh.context=8 cannot divide a model with model.memory.keeps=outputs",
        ),
        (
            MeshConfig(data=1, context=8),
            {"chunks_at_once": 2},
            "model.chunks_at_once=2 must be chunks_per_step=8 / mesh.context=8 = 1",
        ),
        (
            MeshConfig(data=1, context=8),
            {"local.window": 12},
            "mesh.context=8 leaves each device 8 tokens .*, fewer than model.local.window=12",
        ),
        (
            MeshConfig(data=1, context=8),
            {"chunks_per_step": 12},
            "mesh.context=8 must divide chunks_per_step=12.*chunks_per_step=16",
        ),
        (
            MeshConfig(fsdp=8),
            {"width": 36, "num_heads": 2},
            "mesh.fsdp=8 must divide dimension 1, which is 36",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh, changes, message):
    steps = {key: changes[key] for key in ("batch_size", "chunks_per_step") if key in changes}
    model = {key: value for key, value in changes.items() if key not in steps}
    config = dataclasses.replace(make_config(mesh, **model), **steps)
    with pytest.raises(UserError, match=message):
        parallel.make_train_step(config, make_optimizer(config), sharding.make_mesh(mesh))


def test_pmap_divides_nothing_but_lanes():
    for axis in ("fsdp", "tensor", "context"):
        with pytest.raises(UserError, match=f"copies all parameters.*mesh.{axis}=2"):
            MeshConfig(**{axis: 2}, parallelism="pmap")


def sent_along_context(mesh: MeshConfig, **changes) -> dict[str, float]:
    """Bytes that a device sends in a step along `context`, in the text of the compiled program."""
    steps = {"accumulation": 1, **changes.pop("steps", {})}
    model = {"remat": "none", "dropout": 0.0, "vocab_size": 8, **changes}
    config = dataclasses.replace(make_config(mesh, **model), **steps)
    devices, optimizer = sharding.make_mesh(mesh), make_optimizer(config)
    state = parallel.abstract_state(config, optimizer, devices)
    shape = B, config.segment_len
    batch = dict.fromkeys(
        ("tokens", "targets", "documents"),
        jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding.batch_sharding(devices)),
    )
    step = parallel.make_train_step(config, optimizer, devices)
    text = step.lower(state, batch).compile().as_text()
    sent = collectives.bytes_sent(text, dict(devices.shape))
    assert set(sent.axes) == {"context"}
    return sent.kinds


@pytest.mark.parametrize("gate", [pytest.param("none", marks=pytest.mark.slow), "slot"])
def test_bytes_along_context_are_the_formula(gate):
    """docs/architecture.md, Over devices: they do not grow with the tokens of a lane."""
    parts, mesh = 4, MeshConfig(data=1, context=4)
    sizes = {"memory.gate": gate, "memory.slots": 16, "local.window": 8, "width": 32}
    sent = sent_along_context(mesh, **sizes)["collective-permute"]
    layers, passes, numbers = 2, 2, 4
    slots, window, gated = 16 * 32, 2 * 8 * 32, 16 * (gate == "slot")
    of_layer = passes * numbers * B * (slots + window + gated)
    # documents, ages and tokens: some integers of each row
    few = numbers * B * (16 + 8 + 2)
    share = (parts - 1) / parts
    assert layers * of_layer <= sent / share <= layers * of_layer + few
    longer = sent_along_context(mesh, steps={"chunks_per_step": 16}, **sizes)
    assert longer["collective-permute"] == sent
    wider = sent_along_context(mesh, **sizes | {"memory.slots": 32})
    assert wider["collective-permute"] > 1.4 * sent
