"""Topologies by name, and what is refused."""

import pytest

from rmat_jax.chips import GIB, GPUS, TPUS, chip_of
from rmat_jax.errors import UserError
from rmat_jax.plan.topology import parse_topology


@pytest.mark.parametrize(
    "text, name, count",
    [
        ("v5e:16x16", "v5e", 256),
        ("v5e:1x1", "v5e", 1),
        ("v5p:2x2x1", "v5p", 4),
        ("v4:4x4x8", "v4", 128),
        ("v6e:2x4", "v6e", 8),
    ],
)
def test_a_slice(text, name, count):
    topology = parse_topology(text)
    assert (topology.chip.name, topology.count, str(topology), topology.slice_name) == (
        name,
        count,
        text,
        text,
    )


@pytest.mark.parametrize(
    "text, name, count", [("gpu:h100:8", "h100", 8), ("gpu:a100-80:64", "a100-80", 64)]
)
def test_gpus(text, name, count):
    topology = parse_topology(text)
    assert (topology.chip.name, topology.count, str(topology), topology.slice_name) == (
        name,
        count,
        text,
        "",
    )


@pytest.mark.parametrize(
    "text, says",
    [
        ("v9:4x4", "known are v4, v5e, v5p, v6e"),
        ("", "known are v4, v5e, v5p, v6e"),
        ("v5e", "4x4, 4x8, 8x8"),
        ("v5e:3x4", "4x4, 4x8, 8x8"),
        ("v5e:4x4x4", "4x4, 4x8, 8x8"),
        ("v5e:32x32", "16x16"),
        ("v5p:4x4", "2x2x1, 2x2x2"),
        ("v5e:0x4", "4x4"),
        ("v5e:-2x4", "4x4"),
        ("v5e:axb", "4x4"),
        ("gpu:tpu:8", "known are a100-40, a100-80, h100, h200, b200"),
        ("gpu:h100", "--topology=gpu:h100:8"),
        ("gpu:h100:0", "--topology=gpu:h100:8"),
        ("gpu:h100:many", "--topology=gpu:h100:8"),
    ],
)
def test_what_there_is_not(text, says):
    with pytest.raises(UserError) as error:
        parse_topology(text)
    assert (
        says in str(error.value)
        and f"--topology={text}" in str(error.value)
        and "\n" not in str(error.value)
    )


def test_units():
    """A figure in the wrong unit is off by 8 or 1000: memory in bytes, FLOPs of 1e14 to 1e16, bytes
    a second of 1e11 to 1e12.
    """
    for chip in (*TPUS, *GPUS):
        assert (
            15 * GIB < chip.memory < 200 * GIB
            and 1e14 < chip.flops < 1e16
            and 1e11 < chip.bandwidth < 1e12
        )


def test_a_chip_is_known_by_the_name_that_jax_gives_it():
    names = {
        "TPU v5 lite": "v5e",
        "TPU v5": "v5p",
        "TPU v6 lite": "v6e",
        "TPU v4": "v4",
        "NVIDIA H200": "h200",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA A100-SXM4-40GB": "a100-40",
        "NVIDIA A100-SXM4-80GB": "a100-80",
    }
    assert {kind: chip_of(kind).name for kind in names} == names
    assert chip_of("cpu") is None and chip_of("NVIDIA GeForce RTX 3060") is None
