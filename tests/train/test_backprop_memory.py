"""Back-propagation through chunks keeps the carried state and the chunk's inputs, nothing else."""

import dataclasses

import pytest

from benchmarks.backprop_memory import bytes_kept_a_chunk, temporary_bytes
from rmat_jax.config import PAPER, Local

CONFIG = dataclasses.replace(
    PAPER,
    vocab_size=32,
    width=32,
    num_layers=2,
    num_heads=2,
    mlp_width=128,
    chunk_len=16,
    local=Local(window=8, sliding=False),
    memory=dataclasses.replace(PAPER.memory, slots=8, writes=4),
)


def slope(remat: str) -> float:
    config = dataclasses.replace(CONFIG, remat=remat)
    return (temporary_bytes(config, 24) - temporary_bytes(config, 8)) / 16


@pytest.mark.parametrize("remat", ["chunk", "chunk+block"])
def test_a_further_chunk_costs_what_it_hands_on(remat):
    # The compiler aligns buffers to 64 bytes; a leaf can cost that much more in all, not a chunk.
    assert slope(remat) == pytest.approx(bytes_kept_a_chunk(CONFIG), rel=0.03)


def test_control_without_remat_it_costs_far_more():
    assert slope("none") > 5 * bytes_kept_a_chunk(CONFIG)
