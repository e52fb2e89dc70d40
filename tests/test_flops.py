"""FLOPs by jaxpr: hand-counted programs, a token of the hybrid by hand, and the train step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from rmat_jax import flops
from rmat_jax.config import PAPER, Config, Local, Memory, MeshConfig, OptimConfig, RMATConfig
from rmat_jax.plan import compiled, topology

A_IJ = jax.ShapeDtypeStruct((3, 5), jnp.float32)
B_JK = jax.ShapeDtypeStruct((5, 7), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((6, 6), jnp.float32)
PRODUCT, SQUARED = 2 * 3 * 5 * 7, 2 * 6**3


def count(function, *args) -> int:
    return flops.count(jax.make_jaxpr(function)(*args))


def repeated(body, length):
    def run(x):
        return jax.lax.scan(lambda x, _: (body(x), None), x, None, length=length)[0]

    return run


def test_products_by_hand():
    assert count(jnp.dot, A_IJ, B_JK) == PRODUCT
    assert count(lambda a, b: a + 1, A_IJ, B_JK) == 0
    q_BSHE, k_BJHE = jnp.zeros((2, 3, 4, 5)), jnp.zeros((2, 7, 4, 5))
    assert (
        count(lambda q, k: jnp.einsum("bshe,bjhe->bhsj", q, k), q_BSHE, k_BJHE)
        == 2 * 2 * 3 * 7 * 4 * 5
    )


def test_a_gradient_costs_two_more():
    assert (
        count(jax.value_and_grad(lambda a, b: ((a @ b) ** 2).sum(), argnums=(0, 1)), A_IJ, B_JK)
        == 3 * PRODUCT
    )


@pytest.mark.parametrize("inner", [1, 4])
def test_loops_multiply(inner):
    nested = repeated(repeated(lambda x: x @ x, inner), 3)
    assert count(jax.jit(nested), SQUARE) == 3 * inner * SQUARED


def test_recomputation_counts():
    def loss(x, remat):
        body = jax.checkpoint(lambda x: jnp.sin(x @ x)) if remat else lambda x: jnp.sin(x @ x)
        return repeated(body, 4)(x).sum()

    assert count(jax.grad(lambda x: loss(x, False)), SQUARE) == 4 * 3 * SQUARED
    assert count(jax.grad(lambda x: loss(x, True)), SQUARE) == 4 * 4 * SQUARED


def test_the_dearest_branch_counts():
    def either(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count(either, SQUARE) == 2 * SQUARED


def test_shards_by_hand_count_for_all_devices():
    mesh = AbstractMesh((4, 2), ("lanes", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def rows(a_IJ, b_JK):
        spread = jax.shard_map(
            jnp.dot,
            mesh=mesh,
            in_specs=(P("lanes"), P()),
            out_specs=P("lanes"),
            axis_names={"lanes"},
        )
        return spread(a_IJ, b_JK)

    assert count(rows, jnp.zeros((12, 5)), jnp.zeros((5, 7))) == 4 * PRODUCT


def test_a_loop_of_unknown_length_is_refused():
    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="nobody knows"):
        count(loop, SQUARE)
    assert (
        count(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x) @ x, SQUARE)
        == SQUARED
    )


MODEL = dataclasses.replace(
    PAPER,
    vocab_size=512,
    width=128,
    num_layers=3,
    num_heads=4,
    mlp_width=512,
    chunk_len=64,
    local=Local(window=16),
    memory=dataclasses.replace(PAPER.memory, slots=16, writes=4),
)


def test_a_token_by_hand():
    """The hybrid: a layer's products, scores and values of all keys, slots, gate, shift, logits."""
    D, F, C, W, M, V = 32, 96, 16, 4, 48, 50
    memory = Memory(slots=M, writes=C)
    c = RMATConfig(V, D, 3, 4, F, C, local=Local(window=W), memory=memory)
    # a row of W queries sees two windows
    layer = 2 * (4 * D * D + 2 * D * F) + 2 * 2 * (2 * W + C + M) * D
    slots, gate = 2 * 2 * D * D, 2 * 2 * D
    assert flops.per_token(c) == 3 * (layer + slots + gate) + 2 * D * D + 2 * D * V
    queue = RMATConfig(V, D, 3, 4, F, C, branches=("full",), token_shift=False)
    layer -= 2 * 2 * (2 * W + M) * D
    assert flops.per_token(queue) == 3 * layer + 2 * D * V


ALONE = MeshConfig()


def step_flops(remat: str, mesh: MeshConfig = ALONE, accumulation: int = 1) -> tuple[int, Config]:
    config = Config(
        model=dataclasses.replace(MODEL, remat=remat),
        mesh=mesh,
        optim=OptimConfig(warmup_steps=1),
        batch_size=8,
        chunks_per_step=4,
        accumulation=accumulation,
    )
    where = topology.parse_topology("gpu:h100:4")
    return compiled.trace(config, compiled.make_mesh(config, where))[1], config


@pytest.mark.parametrize(
    "remat, blocks, logits",
    [("none", 3, 3), ("block", 4, 3), ("chunk", 4, 4), ("chunk+block", 5, 4)],
)
def test_the_train_step_is_as_many_forward_passes(remat, blocks, logits):
    """To 2%: pooling, and the last products of a piece computed again, which the backward pass does
    not need.
    """
    counted, config = step_flops(remat)
    tokens = config.batch_size * config.segment_len
    logits_flops = 2 * MODEL.width * MODEL.vocab_size
    expected = tokens * (blocks * (flops.per_token(MODEL) - logits_flops) + logits * logits_flops)
    assert counted == pytest.approx(expected, rel=0.02)


def test_the_mesh_does_not_change_the_work():
    """The lanes are spread, the work is the same; that copies of it were counted would show as a
    factor.
    """
    alone, _ = step_flops("none", MeshConfig(tensor=4))
    for mesh in (MeshConfig(fsdp=2, tensor=2), MeshConfig(data=2, fsdp=2)):
        assert step_flops("none", mesh)[0] == alone
    assert step_flops("none", accumulation=2)[0] == alone
