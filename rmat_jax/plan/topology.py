"""The names of TPU slices and of numbers of GPUs."""

import dataclasses
import math

from rmat_jax.chips import GPUS, TPUS, Chip
from rmat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of connected chips of one kind."""

    chip: Chip
    count: int
    # JAX's name of a TPU slice, such as "v5e:4x4"; empty for GPUs, for which nothing is compiled
    slice_name: str

    def __str__(self) -> str:
        return self.slice_name or f"gpu:{self.chip.name}:{self.count}"


def parse_topology(text: str) -> Topology:
    """Reads a topology such as "v5e:16x16" or "gpu:h100:8".

    Raises:
        UserError: the chip is not in the tables, or there is no such slice.
    """
    kind, _, rest = text.partition(":")
    if kind == "gpu":
        name, _, count = rest.partition(":")
        chip = _find("gpu", GPUS, name, text)
        if not (count.isdecimal() and int(count) > 0):
            raise UserError(
                f"--topology={text}: the number of GPUs is missing; write --topology=gpu:{name}:8"
            )
        return Topology(chip, int(count), "")
    chip = _find("TPU", TPUS, kind, text)
    # slices of these are 2D, with up to 16x16 chips; all others are 3D
    flat = kind in ("v5e", "v6e")
    sides = [int(side) if side.isdecimal() else 0 for side in rest.split("x")]
    if not (
        len(sides) == (2 if flat else 3)
        and all(sides)
        and (math.prod(sides) == 1 or all(side % 2 == 0 for side in sides[:2]))
        and (not flat or max(sides) <= 16)
    ):
        possible = (
            "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"
            if flat
            else "1x1x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, ..."
        )
        raise UserError(
            f"--topology={text} is no slice of {kind} chips; {kind}: goes with {possible}"
        )
    return Topology(chip, math.prod(sides), text)


def _find(what: str, chips: tuple[Chip, ...], name: str, text: str) -> Chip:
    for chip in chips:
        if chip.name == name.lower():
            return chip
    names = ", ".join(chip.name for chip in chips)
    hint = "; a TPU slice is v5e:4x4, GPUs are gpu:h100:8" if what == "TPU" else ""
    raise UserError(f"--topology={text}: there is no {what} {name!r}; known are {names}{hint}")
