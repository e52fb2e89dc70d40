"""Random numbers of training, which belong to the rows of the global batch and not to the devices
that hold them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.types import Array


def row_keys(key: Array, rows: int) -> Array:
    """A key for each row: its index in the global batch is folded in, so that it is the same on
    whatever device the row lies.
    """
    # Inside shard_map and pmap a device sees its own rows only: those axes are "manual".
    spread = jax.sharding.get_abstract_mesh().manual_axes
    first = jax.lax.axis_index(spread) * rows if spread else 0
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(rows))


class Dropout(nn.Module):
    """Zeroes entries with probability `rate`, scales the others by 1 / (1 - rate); does nothing
    without a "dropout" key.

    Each row draws its mask with a key of its own; `flax.linen.Dropout` would give each device the
    masks of the first.
    """

    rate: float

    def __call__(self, x_BSD: Array) -> Array:
        if not self.rate or not self.has_rng("dropout"):
            return x_BSD
        keys = row_keys(self.make_rng("dropout"), len(x_BSD))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x_BSD.shape[1:]))(keys)
        return jnp.where(keep, x_BSD / (1 - self.rate), 0).astype(x_BSD.dtype)
