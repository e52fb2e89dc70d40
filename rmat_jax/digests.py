"""Digests of trees of arrays, which reveal damage and differences.

May import: errors, types, jax.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from rmat_jax.errors import UserError
from rmat_jax.types import Array, PyTree


def digests(tree: PyTree) -> dict[str, int]:
    """A 32-bit digest of each leaf, by name: sum over flat positions i of mix(bits_i ^ mix(i)), mod
    2^32 (our choice).

    Integer sums commute, so a digest is the same on any number and kind of devices. A change of one
    element (up to 32 bits) always shows; any other, such as two elements that swap places, goes
    unseen once in 2^32. Positions repeat after 2^32 elements. Shape and dtype do not enter. Leaves
    are arrays of 8 to 64 bits an element (not complex), or PRNG keys.
    """
    leaves = named(tree)
    raw = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in leaves.values()
    ]
    return dict(zip(leaves, map(int, jax.device_get(_digest_all(raw))), strict=True))


@jax.jit
def _digest_all(leaves: list[Array]) -> list[Array]:
    # MurmurHash3's finaliser: one to one, and each bit of h reaches each bit of the result
    def mix(h):
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return h ^ (h >> 16)

    def digest(x):
        x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
        # an element of 64 bits becomes two words on a new last axis
        word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
        bits = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
        position = jnp.ones(bits.shape, jnp.uint32)
        # not by reshape(-1), which would gather a sharded array
        for axis in range(bits.ndim):
            stride = math.prod(bits.shape[axis + 1 :]) % 2**32
            position += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        return jnp.sum(mix(bits ^ mix(position)), dtype=jnp.uint32)

    return [digest(x) for x in leaves]


def check_finite(tree: PyTree, what: str) -> None:
    """Raises UserError if a leaf holds NaN or infinity, and names the first such leaf."""
    leaves = named(tree)
    finite = jax.device_get(
        jax.jit(lambda xs: [jnp.isfinite(x).all() for x in xs])([*leaves.values()])
    )
    for name, good in zip(leaves, finite, strict=True):
        if not good:
            raise UserError(f"{what}: {name} holds NaN or infinity; use another step")


def named(tree: PyTree) -> dict[str, Any]:
    """Leaves by name, in the order of jax.tree.leaves. None is structure, not a leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise UserError(
            f"{len(leaves)} leaves share {len(named)} names ({', '.join(named)}); rename a key of "
            "the tree"
        )
    return named
