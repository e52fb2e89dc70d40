"""Rotary position embedding (arXiv 2104.09864), the two halves of a vector paired."""

import jax.numpy as jnp

from rmat_jax.types import Array


def rotate(x_BSHE: Array, positions_BS: Array, base: float, mode: str) -> Array:
    """Rotates each vector by angles that grow with its position; dot products then depend on differences only.

    Component i of a vector of size n is paired with component i + n/2 and turned by `position * base**(-2i/n)`.

    Args:
        x_BSHE: queries or keys, split into heads.
        positions_BS: negative ones and halves included; the leading axis may be 1.
        base: the slowest pair turns once in about `2 pi base` positions.
        mode: "per_head" rotates each head's E dimensions (n = E); "global" the D-wide vector as it was before the
            split into heads (n = H E), so that heads differ in their range of frequencies; "none" returns x.

    Returns:
        The rotated vectors in x's dtype; angles are computed in float32, or float64 if x is.
    """
    if mode == "none":
        return x_BSHE
    shape = x_BSHE.shape
    x = x_BSHE if mode == "per_head" else x_BSHE.reshape(*shape[:2], 1, -1)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=wide) / half)
    angles = positions_BS[:, :, None, None].astype(wide) * frequencies[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype).reshape(shape)
