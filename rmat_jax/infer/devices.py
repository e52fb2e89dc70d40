"""Divides a long text along its time over devices of this process.

Each device reads a part of the chunks and hands memory and window to the next (`ops/context.py`).
The first device does everything else.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmat_jax.config import RMATConfig
from rmat_jax.errors import UserError
from rmat_jax.model import check_context
from rmat_jax.ops.context import CONTEXT
from rmat_jax.types import PyTree


def along_time(config: RMATConfig, chunks: int, count: int) -> Mesh | None:
    """Makes a mesh of the first devices, along time; None for one device.

    Args:
        config: the model's config.
        chunks: the number of chunks that each device reads in a call.
        count: the number of devices.

    Raises:
        UserError: there are not so many devices, or they cannot divide this model's chunks.
    """
    mine = jax.local_devices()
    if not 1 <= count <= len(mine):
        raise UserError(
            f"devices={count} must lie between 1 and {len(mine)}, what this process has; give fewer"
        )
    check_context(config, chunks, count, f"devices={count}")
    return Mesh(np.array(mine[:count]), (CONTEXT,)) if count > 1 else None


def on_all(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Puts whole arrays on each of the devices."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, P()))


def of_first(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Takes the first device's share of arrays, without a copy."""
    return tree if mesh is None else jax.tree.map(lambda x: x.addressable_data(0), tree)


def divided(mesh: Mesh | None, read: Callable, *by_time: bool) -> Callable:
    """Makes a function of arrays run on all devices, with results that are equal on all of them.

    Args:
        mesh: the devices.
        read: the function.
        by_time: for each argument whether it is [B, T] and divided along T; else it is whole.
    """
    if mesh is None:
        return read
    specs = tuple(P(None, CONTEXT) if one else P() for one in by_time)
    return jax.shard_map(read, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
