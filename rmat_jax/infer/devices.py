"""Devices of this process that divide a long text along its time.

Each of them reads a part of the chunks and hands memory and window to the next (`ops/context.py`).
The first does all else.
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
    """The first devices in a line; None: there is one.

    Args:
        config: the model's.
        chunks: that each of them reads in a call.
        count: how many there are to be.

    Raises:
        UserError: there are not so many, or they cannot divide this model's chunks.
    """
    mine = jax.local_devices()
    if not 1 <= count <= len(mine):
        raise UserError(
            f"devices={count} must lie between 1 and {len(mine)}, what this process has; give fewer"
        )
    check_context(config, chunks, count, f"devices={count}")
    return Mesh(np.array(mine[:count]), (CONTEXT,)) if count > 1 else None


def on_all(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Arrays that each of the devices holds whole."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, P()))


def of_first(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """The first device's part of such arrays. Nothing is copied."""
    return tree if mesh is None else jax.tree.map(lambda x: x.addressable_data(0), tree)


def divided(mesh: Mesh | None, read: Callable, *by_time: bool) -> Callable:
    """A function of arrays, run by all devices, whose results are equal on all of them.

    Args:
        mesh: the devices.
        read: the function.
        by_time: for each argument whether it is [B, T], divided along T; the others are whole.
    """
    if mesh is None:
        return read
    specs = tuple(P(None, CONTEXT) if one else P() for one in by_time)
    return jax.shard_map(read, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
