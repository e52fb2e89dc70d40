"""Computes the memory and the exchanged bytes of a train step by formula, without a compiler.

The table shows how far the formulas are off the compiler's figures of TPU programs for the same
experiment and mesh (in version 1, where both configs were the paper's block):

| configs/ | mesh: data x fsdp x tensor | remat | peak | bytes sent |
|---|---|---|---|---|
| pg19_150m, v5e:4x4 | 16 x 1 x 1 | chunk+block | -16% | 0% |
| | 1 x 16 x 1 | chunk+block | -2% | -24%: reduce-scatters become all-reduces |
| pg19_1b, v5e:16x16 | 1 x 64 x 4 | chunk | -9% | -43% |
| | 1 x 64 x 4 | chunk+block | -6% | -40% |
| | 1 x 32 x 8 | chunk | -7% | -48% |
| v5e:8x8, v5e:4x4 | 1 x 16 x 4, 1 x 4 x 4 | chunk | -8% | -43% |

Along `tensor` the compiler exchanges more than the two all-reduces a layer that would suffice. The
compiler for GPUs is yet another one.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from rmat_jax.config import Config, RMATConfig
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state
from rmat_jax.plan.collectives import Sent, add_up
from rmat_jax.plan.compiled import Held

# how often each block is computed forward, by remat
FORWARDS = {"none": 1, "block": 2, "chunk": 2, "chunk+block": 3}


def temporaries(config: Config, mesh: dict[str, int], held: Held) -> int:
    """Bytes of one device beyond those that stay from step to step.

    They are the gathered parameters, the gradients and a second copy where they are added up, what
    the backward pass needs of all chunks, and what it needs of the piece that is differentiated at
    a time, twice: as it is made and as it is stacked. `accumulation` adds another copy of the
    gradients. `tensor` and `context` are assumed to divide all activations.
    """
    c = config.model
    lanes = config.batch_size // (mesh["data"] * mesh["fsdp"] * config.accumulation)
    without = dataclasses.replace(c, remat="none")
    piece = kept(
        dataclasses.replace(without, num_layers=1) if "block" in c.remat else without, lanes, 1
    )
    activations = kept(c, lanes, config.chunks_per_step) + 2 * piece
    if c.remat == "chunk+block":
        activations += kept(dataclasses.replace(c, remat="block"), lanes, 1)
    gradients = (2 if config.accumulation == 1 else 3) * held.grads
    return held.gathered + gradients + activations // (mesh["tensor"] * mesh["context"])


def kept(config: RMATConfig, lanes: int, chunks: int) -> int:
    """Bytes that JAX keeps between the forward and the backward pass over some lanes, without the
    float32 parameters.
    """
    model = RMAT(config)

    def forward(tokens_BT):
        params = model.init(jax.random.key(0), tokens_BT[:, : config.chunk_len])["params"]
        state = initial_state(config, lanes)

        def loss(params):
            scores, _ = model.apply(
                {"params": params}, tokens_BT, tokens_BT, state, tokens_BT, method=RMAT.score
            )
            return scores.loss_BT.sum()

        # the backward pass is a pytree of the arrays that it needs
        return params, jax.vjp(loss, params)[1]

    tokens_BT = jax.ShapeDtypeStruct((lanes, chunks * config.chunk_len), jnp.int32)
    params, backward = jax.eval_shape(forward, tokens_BT)
    return _bytes(backward) - _bytes(params)


def bytes_sent(config: Config, mesh: dict[str, int], held: Held) -> Sent:
    """Bytes that one device sends in a step, as `collectives` defines them.

    Once a step the parameters are gathered along `fsdp`, and the gradients are added up along
    `data` and `fsdp`. Along `tensor` there are two all-reduces of [B, C, D] a layer and chunk
    whenever the block is computed forward, and two backward. Along `context` a device hands each
    layer's queue and window to the next whenever the block is computed forward, and gets their
    gradients back; the states of the lanes are added up.
    """
    c, context = config.model, mesh["context"]
    lanes = config.batch_size // (mesh["data"] * mesh["fsdp"])
    rounds = 2 * (FORWARDS[c.remat] + 1) * c.num_layers
    activations = rounds * lanes * config.segment_len * c.width * jnp.dtype(c.dtype).itemsize
    activations /= context
    carried = held.memory * (FORWARDS[c.remat] + 1) * _others(context)
    alike = tuple(axis for axis in ("data", "context") if mesh[axis] > 1)
    parts = (
        ("all-gather", ("fsdp",), _others(mesh["fsdp"]) * held.gathered),
        ("reduce-scatter", ("fsdp",), _others(mesh["fsdp"]) * held.grads),
        ("all-reduce", alike, 2 * _others(mesh["data"] * context) * held.grads / mesh["fsdp"]),
        ("all-reduce", ("tensor",), 2 * _others(mesh["tensor"]) * activations),
        ("all-reduce", ("context",), 2 * _others(context) * held.memory),
        ("collective-permute", ("context",), carried),
    )
    return add_up(part for part in parts if part[2])


def _others(group: int) -> float:
    return (group - 1) / group


def _bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
