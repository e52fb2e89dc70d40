"""Prints the tables of docs/choosing.md: parameters, FLOPs and bytes of models, by arithmetic.

    python benchmarks/choosing.py

Nothing is trained or timed, and no array is made: shapes alone are computed. FLOPs are those of
`rmat_jax/flops.py`, a multiply-add as two. Bytes are those of the state of one stream, with
bfloat16 activations: its memory is float32, its windows, keys and values are bfloat16.
"""

import argparse
import dataclasses
import math

import jax
import jax.numpy as jnp

from rmat_jax import flops
from rmat_jax.config import Local, Memory, RMATConfig
from rmat_jax.infer import open_chunk
from rmat_jax.model import RMAT
from rmat_jax.modules import state

# width -> layers; from 1,024 on as in table 2.1 of arXiv 2005.14165
LAYERS = {256: 4, 512: 8, 1024: 24, 2048: 24, 4096: 32}
VOCABULARY = 32_768
# tokens that full attention is compared at
CONTEXTS = (16_384, 131_072)
MIB = 2**20


def model(width: int, **changes) -> RMATConfig:
    """The default block at a width, with heads of 64."""
    base = RMATConfig(
        vocab_size=VOCABULARY,
        width=width,
        num_layers=LAYERS[width],
        num_heads=width // 64,
        dtype="bfloat16",
    )
    # sizes that follow the chunk are filled in anew
    return dataclasses.replace(base, **{"local": None, "memory": None} | changes)


def parameters(config: RMATConfig) -> int:
    shapes = jax.eval_shape(
        RMAT(config).init, jax.random.key(0), jnp.zeros((1, config.chunk_len), jnp.int32)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def closed_bytes(config: RMATConfig) -> int:
    """Of what training carries for a lane from step to step."""
    return jax.eval_shape(lambda: state.initial_state(config, 1)).num_bytes()


def stream_bytes(config: RMATConfig) -> int:
    """Of a stream that may stop anywhere: with its open chunk, and the slots' keys and values."""
    return jax.eval_shape(lambda: open_chunk.initial_state(config, 1)).num_bytes()


def width_row(width: int) -> str:
    """The row of the default block at a width."""
    config = model(width)
    count = parameters(config)
    caches = [
        stream_bytes(model(width, branches=("full",), chunk_len=tokens)) for tokens in CONTEXTS
    ]
    return row(
        f"{width:,}, {LAYERS[width]}",
        f"{count / 1e6:,.0f} M",
        f"{flops.per_token(config) / 1e9:.3g} G",
        size(16 * count),
        size(closed_bytes(config)),
        size(stream_bytes(config)),
        *map(size, caches),
    )


def variants() -> dict[str, RMATConfig]:
    """One choice changed at a time, at width 1,024."""
    return {
        "the default: chunk 256, 512 slots, window 64": model(1024),
        "chunk 64, 128 slots": model(1024, chunk_len=64),
        "chunk 1,024, 2,048 slots": model(1024, chunk_len=1024),
        "256 slots": model(1024, memory=Memory(slots=256)),
        "2,048 slots": model(1024, memory=Memory(slots=2048)),
        "64 slots of 8 tokens each": model(1024, memory=Memory(slots=64, writes=32)),
        "512 slots of 8 tokens each": model(1024, memory=Memory(slots=512, writes=32)),
        "window 16": model(1024, local=Local(window=16)),
        "window 256": model(1024, local=Local(window=256)),
        "no local branch": model(1024, branches=("full", "memory")),
        "no memory": model(1024, branches=("full", "local")),
        "no gate": model(1024, memory=Memory(gate="none")),
        "gate `gru`": model(1024, memory=Memory(gate="gru")),
        "Transformer-XL, window 256": model(1024, branches=("local",), local=Local(window=256)),
    }


def choice_row(name: str, config: RMATConfig) -> str:
    """The row of a variant."""
    return row(
        name,
        f"{config.memory.slots * config.run_len:,} tokens" if config.memory else "",
        f"{parameters(config) / 1e6:,.1f} M",
        f"{flops.per_token(config) / 1e9:.3f} G",
        size(stream_bytes(config)),
    )


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def size(count: int) -> str:
    unit, name = (2**30, "GiB") if count >= 2**30 else (MIB, "MiB")
    return f"{count / unit:,.3g} {name}" if count < 1000 * unit else f"{count / unit:,.0f} {name}"


def tables() -> str:
    """Both tables, as Markdown."""
    full = [f"full attention at {tokens:,} tokens" for tokens in CONTEXTS]
    widths = "width, layers", "parameters", "FLOPs a token", "weights, gradient, Adam"
    states = "a lane's state", "a stream's state"
    choices = "width 1,024, 24 layers", "slots hold the last", *widths[1:3], states[1]
    return "\n".join(
        [
            row(*widths, *states, *full),
            "|" + "---|" * (len(widths) + len(states) + len(full)),
            *map(width_row, LAYERS),
            "",
            row(*choices),
            "|" + "---|" * len(choices),
            *(choice_row(*variant) for variant in variants().items()),
        ]
    )


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print(tables())


if __name__ == "__main__":
    main()
