"""Dropout whose random numbers belong to the rows of the global batch and their chunks, and not to
the devices that hold them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.ops.context import CONTEXT
from rmat_jax.types import Array


def row_keys(key: Array, rows: int) -> Array:
    """Makes a key for each row. The row's index in the global batch is folded in, so that the key
    does not depend on the row's device.
    """
    # Inside shard_map and pmap a device sees its own rows only: those axes are "manual".
    manual = jax.sharding.get_abstract_mesh().manual_axes
    spread = tuple(axis for axis in manual if axis != CONTEXT)
    first = jax.lax.axis_index(spread) * rows if spread else 0
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(rows))


class Dropout(nn.Module):
    """Zeroes entries with probability `rate`, scales the others by 1 / (1 - rate); does nothing
    without a "dropout" key.

    Each chunk of a row draws its mask with its own key. With `flax.linen.Dropout` all devices would
    draw the same masks, and the masks would depend on the number of chunks read at once.
    """

    rate: float
    chunk_len: int

    def __call__(self, x_BSD: Array, first: Array | int = 0) -> Array:
        """Returns an array of the same shape.

        Args:
            x_BSD: vectors of tokens.
            first: index of their first chunk in the call.
        """
        if not self.rate or not self.has_rng("dropout"):
            return x_BSD
        length = min(self.chunk_len, x_BSD.shape[1])
        x_BGCD = x_BSD.reshape(len(x_BSD), -1, length, x_BSD.shape[2])
        keys_B = row_keys(self.make_rng("dropout"), len(x_BSD))
        chunks_G = first + jnp.arange(x_BGCD.shape[1])
        keys_BG = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys_B, chunks_G)

        def kept(key):
            return jax.random.bernoulli(key, 1 - self.rate, x_BGCD.shape[2:])

        keep_BSD = jax.vmap(jax.vmap(kept))(keys_BG).reshape(x_BSD.shape)
        return jnp.where(keep_BSD, x_BSD / (1 - self.rate), 0).astype(x_BSD.dtype)
