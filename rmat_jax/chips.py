"""What a chip can hold, compute and send, from data sheets; nothing here is measured.

May import: nothing.
"""

import dataclasses

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator."""

    name: str
    # bytes of HBM
    memory: int
    # dense bfloat16 FLOPs a second with float32 sums; a multiply-add is 2 FLOPs
    flops: float
    # bytes a second that it can send, over all its links together
    bandwidth: float


# cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: "HBM capacity", "Peak compute per chip (bf16)",
# "Interchip Interconnect BW". The last is given in Gbit/s, all links in one direction: v5e 1600, v4
# 2400, v5p 4800, v6e 3584 (3200 on newer pages).
TPUS = (
    Chip("v4", 32 * GIB, 275e12, 2400e9 / 8),
    Chip("v5e", 16 * GIB, 197e12, 1600e9 / 8),
    Chip("v5p", 95 * GIB, 459e12, 4800e9 / 8),
    Chip("v6e", 32 * GIB, 918e12, 3584e9 / 8),
)
# NVIDIA's data sheets: GPU memory, BF16 Tensor Core without sparsity, and half of "NVLink", which
# counts both directions. Beyond the GPUs of one NVLink domain (8 in most hosts) the network between
# the hosts decides, which is slower.
GPUS = (
    Chip("a100-40", 40 * GB, 312e12, 300e9),
    Chip("a100-80", 80 * GB, 312e12, 300e9),
    Chip("h100", 80 * GB, 989e12, 450e9),
    Chip("h200", 141 * GB, 989e12, 450e9),
    Chip("b200", 180 * GB, 2250e12, 900e9),
)
# a part of JAX's `device_kind`, in lower case -> the chip; the first that fits counts
_KINDS = (
    ("v5 lite", "v5e"),
    ("v5e", "v5e"),
    ("v6 lite", "v6e"),
    ("v6e", "v6e"),
    ("tpu v5", "v5p"),
    ("tpu v4", "v4"),
    ("b200", "b200"),
    ("h200", "h200"),
    ("h100", "h100"),
    ("a100-sxm4-40", "a100-40"),
    ("a100-pcie-40", "a100-40"),
    ("a100", "a100-80"),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device; None: it is not in the tables."""
    for part, name in _KINDS:
        if part in device_kind.lower():
            return next(chip for chip in TPUS + GPUS if chip.name == name)
    return None
