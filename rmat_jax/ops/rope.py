"""Rotary position embedding (arXiv 2104.09864), the two halves of a vector paired."""

import jax.numpy as jnp
import numpy as np

from rmat_jax.types import Array

# the number of positions over which float32 angles are exact enough
EXACT = 1024


def rotate(x_BSHE: Array, positions_BS: Array, base: float, mode: str) -> Array:
    """Rotates each vector by angles that grow with its position; dot products then depend on
    differences only.

    Component i of a head is paired with component i + E/2. Pair i of n is turned by `position *
    base**(-i/n)`.

    Args:
        x_BSHE: queries or keys, split into heads.
        positions_BS: positions; they may be negative or halves. The leading axis may be 1.
        base: the slowest pair turns once in about `2 pi base` positions.
        mode: "per_head": each head has all frequencies, n = E/2. "global": the frequencies run once
            over the pairs of all heads, n = H E/2, as if the vector were rotated before it is split
            into heads; only the first heads turn fast. "none" returns x.

    Returns:
        The rotated vectors in x's dtype; angles are computed in float32, or float64 if x is. Their
        error does not grow with the position.
    """
    if mode == "none":
        return x_BSHE
    heads, half = x_BSHE.shape[2] if mode == "global" else 1, x_BSHE.shape[3] // 2
    wide = jnp.promote_types(x_BSHE.dtype, jnp.float32)
    frequencies = base ** (-np.arange(heads * half) / (heads * half)).reshape(1, 1, heads, half)
    # A large angle would lose the digits of its remainder by 2 pi. So multiples of EXACT positions
    # have a separate angle, whose remainder is taken in float64.
    positions_BS11 = jnp.asarray(positions_BS)[:, :, None, None]
    # The nearest multiple: positions just below 0 keep their small angle.
    thousands_BS11 = jnp.floor_divide(positions_BS11 + EXACT // 2, EXACT)
    rest_BS11 = positions_BS11 - thousands_BS11 * EXACT
    angles = rest_BS11.astype(wide) * frequencies.astype(wide)
    angles += thousands_BS11.astype(wide) * (EXACT * frequencies % (2 * np.pi)).astype(wide)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x_BSHE.astype(wide), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BSHE.dtype)
