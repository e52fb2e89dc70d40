"""The tables of docs/choosing.md are those of the program that they name."""

from pathlib import Path

import pytest

from benchmarks import choosing
from rmat_jax.config import Memory, RMATConfig
from rmat_jax.infer import open_chunk

PAGE = (Path(__file__).parents[1] / "docs/choosing.md").read_text(encoding="utf-8").splitlines()


def test_rows_stand_in_the_page():
    assert choosing.width_row(256) in PAGE
    name = "512 slots of 8 tokens each"
    assert choosing.choice_row(name, choosing.variants()[name]) in PAGE


def test_bytes_are_those_of_the_arrays():
    config = RMATConfig(width=16, num_heads=2, chunk_len=8, memory=Memory(slots=16))
    assert choosing.stream_bytes(config) == open_chunk.initial_state(config, 1).num_bytes()
    less = RMATConfig(width=16, num_heads=2, chunk_len=8, memory=Memory(slots=8))
    assert choosing.stream_bytes(less) < choosing.stream_bytes(config)


@pytest.mark.slow
def test_the_page_has_the_tables():
    assert set(choosing.tables().splitlines()) <= set(PAGE)
