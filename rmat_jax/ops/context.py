"""Time divided over devices: what a device is handed by its left neighbour.

The devices along the mesh axis `context` hold the runs of a lane's chunks in order. A memory of M
slots and a window of W tokens is all that one of them needs of those before it. Outside of
`shard_map` over that axis there is one part, and every function here returns what it was given.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rmat_jax.types import Array, PyTree

CONTEXT = "context"


def parts() -> int:
    """[P] over so many devices a lane's time is divided."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[CONTEXT] if CONTEXT in mesh.manual_axes else 1


def place() -> Array | int:
    """This device's place in time, 0 to P - 1."""
    return jax.lax.axis_index(CONTEXT) if parts() > 1 else 0


def in_turn(
    carry_on: Callable[[PyTree], PyTree], start: PyTree, reach: int | None = None
) -> PyTree:
    """What this device is handed: `start` if it is the first, else `carry_on(x)` of its left
    neighbour, which was handed x.

    Args:
        carry_on: what a device hands on, of what it was handed.
        start: what the first device has; the others have something of that shape.
        reach: so many neighbours to the left decide what `carry_on` gives; None: all. Then the
            devices wait for each other: each sends once, in its turn.
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
    """x of the last device, on all."""
    count = parts()
    if count == 1:
        return x
    last = place() == count - 1
    return jax.tree.map(lambda x: jax.lax.psum(jnp.where(last, x, 0), CONTEXT), x)


def total(x: Array) -> Array:
    """The sum over all devices, on all."""
    return x if parts() == 1 else jax.lax.psum(x, CONTEXT)
