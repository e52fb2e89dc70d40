"""Collectives along the mesh axis `context`, which divides the time of a lane over devices.

Each device along the axis holds some neighbouring chunks of a lane, in order. It needs a memory of
M slots and a window of W tokens from the devices before it, and nothing else. Outside of
`shard_map` over that axis there is one part, and every function here returns its input.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rmat_jax.types import Array, PyTree

CONTEXT = "context"


def parts() -> int:
    """[P] Returns the number of devices that divide a lane's time."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[CONTEXT] if CONTEXT in mesh.manual_axes else 1


def place() -> Array | int:
    """Returns this device's index in time, 0 to P - 1."""
    return jax.lax.axis_index(CONTEXT) if parts() > 1 else 0


def in_turn(
    carry_on: Callable[[PyTree], PyTree], start: PyTree, reach: int | None = None
) -> PyTree:
    """Hands values from device to device in the order of time. Returns the value that this device
    gets.

    The first device gets `start`. Each further device gets `carry_on(x)` from its left neighbour,
    which has got x.

    Args:
        carry_on: maps the value that a device gets to the value that it hands on.
        start: the first device's value; other devices give any value of its shape.
        reach: the number of left neighbours on which the result of `carry_on` depends; None: all.
            With None each device sends once, in its turn, and the later ones wait.
    """
    count, handed = parts(), start
    if count == 1:
        return start
    rounds = [[(sender, sender + 1)] for sender in range(count - 1)]
    if reach is not None and reach < count - 1:
        rounds = [[pair for (pair,) in rounds]] * reach
    for pairs in rounds:
        sent = carry_on(handed)
        receives = jnp.isin(place(), jnp.array([receiver for _, receiver in pairs]))
        handed = jax.tree.map(
            lambda x, old, pairs=pairs, receives=receives: jnp.where(
                receives, jax.lax.ppermute(x, CONTEXT, pairs), old
            ),
            sent,
            handed,
        )
    return handed


def of_last(x: PyTree) -> PyTree:
    """Copies the last device's x to all devices."""
    count = parts()
    if count == 1:
        return x
    last = place() == count - 1
    return jax.tree.map(lambda x: jax.lax.psum(jnp.where(last, x, 0), CONTEXT), x)


def total(x: Array) -> Array:
    """Sums x over all devices, with the result on all of them."""
    return x if parts() == 1 else jax.lax.psum(x, CONTEXT)
