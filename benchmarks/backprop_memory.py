"""Peak memory of back-propagation through chunks, as the compiler reports it. Nothing runs.

    python benchmarks/backprop_memory.py

For each `remat` and each number of chunks that the layers take at once, the gradient of one lane's
loss over N chunks is compiled, and `memory_analysis()` asked for the bytes of temporaries. The
slope is what one more chunk adds; beside it stands what must be kept of a chunk: the carried state,
and its tokens, targets, documents and losses.
"""

import argparse
import dataclasses
import itertools

import jax
import jax.numpy as jnp

from rmat_jax.config import RMATConfig
from rmat_jax.model import RMAT
from rmat_jax.modules.state import initial_state

CHUNKS = (8, 32, 128)
# chunks at once
GROUPS = (1, 8, 128)
REMATS = ("none", "block", "chunk", "chunk+block")
MIB = 2**20


def temporary_bytes(config: RMATConfig, chunks: int, batch: int = 1) -> int:
    """Bytes of temporaries of the gradient of the summed loss over `chunks` chunks."""
    model = RMAT(config)
    tokens_BT = jax.ShapeDtypeStruct((batch, chunks * config.chunk_len), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, config.chunk_len), jnp.int32))["params"], key
    )
    state = jax.eval_shape(lambda: initial_state(config, batch))

    def loss(params, tokens_BT, targets_BT, documents_BT, state):
        scores, _ = model.apply(
            {"params": params}, tokens_BT, targets_BT, state, documents_BT, method=RMAT.score
        )
        return scores.loss_BT.sum()

    compiled = (
        jax.jit(jax.grad(loss)).lower(params, tokens_BT, tokens_BT, tokens_BT, state).compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes


def bytes_kept_a_chunk(config: RMATConfig, batch: int = 1) -> int:
    """The carried state; of several lanes also 4 bytes each for a token, target, document and loss.

    The chunks of one lane lie as they are in the arguments of the call, those of several do not.
    """
    state = jax.eval_shape(lambda: initial_state(config, batch))
    return state.num_bytes() + (4 * 4 * batch * config.chunk_len if batch > 1 else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    base = RMATConfig()
    print(f"MiB of temporaries; {base}")
    print(
        "| remat | chunks at once | "
        + " | ".join(f"{n} chunks" for n in CHUNKS)
        + " | slope, KiB a chunk | kept by necessity, KiB |"
    )
    print("|---|---|" + "---|" * (len(CHUNKS) + 2))
    for remat, at_once in itertools.product(REMATS, GROUPS):
        config = dataclasses.replace(base, remat=remat, chunks_at_once=at_once)
        sizes = [temporary_bytes(config, n) for n in CHUNKS]
        slope = (sizes[-1] - sizes[-2]) / (CHUNKS[-1] - CHUNKS[-2])
        cells = " | ".join(f"{size / MIB:.1f}" for size in sizes)
        group = "all" if at_once == max(CHUNKS) else at_once
        print(
            f"| {remat} | {group} | {cells} | {slope / 1024:.1f} | "
            f"{bytes_kept_a_chunk(config) / 1024:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
