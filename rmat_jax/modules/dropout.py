"""Dropout whose masks belong to the rows of the global batch, not to the devices that hold them."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.types import Array


class Dropout(nn.Module):
    """Zeroes entries with probability `rate`, scales the others by 1 / (1 - rate); does nothing without a "dropout" key.

    Each row draws its mask with a key of its own, its index in the global batch folded in. So the masks are the same however
    the rows are spread over devices; `flax.linen.Dropout` would give each device those of the first.
    """

    rate: float

    def __call__(self, x_BSD: Array) -> Array:
        if not self.rate or not self.has_rng("dropout"):
            return x_BSD
        rows = x_BSD.shape[0]
        # Inside shard_map and pmap a device sees its own rows only: those axes are "manual".
        spread = jax.sharding.get_abstract_mesh().manual_axes
        first = jax.lax.axis_index(spread) * rows if spread else 0
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), first + jnp.arange(rows))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x_BSD.shape[1:]))(keys)
        return jnp.where(keep, x_BSD / (1 - self.rate), 0).astype(x_BSD.dtype)
