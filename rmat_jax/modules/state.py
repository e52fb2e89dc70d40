"""The state that the model carries from chunk to chunk and from call to call, of fixed size.

A `State` stands at the border of a chunk in every row. Training and evaluation use no other. For
streams that stop inside a chunk, `infer` has an `OpenState`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from rmat_jax.config import RMATConfig
from rmat_jax.modules.documents import NOBODY
from rmat_jax.ops.attention import Keys
from rmat_jax.ops.rope import rotate
from rmat_jax.types import Array


@struct.dataclass
class State:
    """All that the model remembers of a batch of streams.

    Its size does not depend on the length of the text. A slot is visible only where `ages_BM` is
    above 0, so zero ages empty a memory. A field is None where the model does not use it.
    """

    # the queues, float32, oldest first
    slots_LBMD: Array | None
    # the keys of the W tokens before the chunk, rotated to positions -W..-1
    window_keys_LBHEW: Array | None
    # the values of these tokens
    window_values_LBHEW: Array | None
    # the documents of these tokens
    window_documents_BW: Array | None
    # chunks since each slot was written, the same in all layers; 0: unwritten
    ages_BM: Array | None
    # the document that was read last
    document_B: Array
    # the token that was read last; -1: none yet
    token_B: Array | None

    def forget(self) -> "State":
        """Returns the same state with an empty memory; a sliding window stays."""
        return self if self.ages_BM is None else self.replace(ages_BM=jnp.zeros_like(self.ages_BM))

    def memory_LBMD(self) -> Array:
        """Returns the slots, zeros where they are unwritten."""
        return jnp.where(self.ages_BM[None, :, :, None] > 0, self.slots_LBMD, 0)

    def num_bytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


@struct.dataclass
class InsideChunk:
    """Stands for the state of a call that ended inside a chunk. No call can go on from it."""


def initial_state(config: RMATConfig, batch: int) -> State:
    """Makes the state of `batch` streams before their first token."""
    c, dtype = config, jnp.dtype(config.dtype)
    slots = window = owners = ages = None
    if c.memory:
        slots = jnp.zeros((c.num_layers, batch, c.memory.slots, c.width), jnp.dtype(c.param_dtype))
        ages = jnp.zeros((batch, c.memory.slots), jnp.int32)
    if c.carries_window:
        shape = (c.num_layers, batch, c.num_heads, c.head_dim, c.local.window)
        window = jnp.zeros(shape, dtype)
        owners = jnp.full((batch, c.local.window), NOBODY, jnp.int32)
    return State(
        slots_LBMD=slots,
        window_keys_LBHEW=window,
        # a separate array, since a donated state must not hold one twice
        window_values_LBHEW=window if window is None else jnp.zeros_like(window),
        window_documents_BW=owners,
        ages_BM=ages,
        document_B=jnp.zeros(batch, jnp.int32),
        token_B=jnp.full(batch, -1, jnp.int32) if c.token_shift else None,
    )


def window(keys_BHEW: Array, values_BHEW: Array, documents_BW: Array) -> Keys:
    """Makes Keys of a carried window, the W tokens before the chunk."""
    before_1W = jnp.arange(-keys_BHEW.shape[-1], 0)[None]
    return Keys(unpacked(keys_BHEW), unpacked(values_BHEW), documents_BW, before_1W)


def slide(config: RMATConfig, keys: Keys, length: int) -> tuple[Array, Array]:
    """Returns the window after `length` tokens: their last W keys and values, [B, H, E, W] each.

    Rotations add up, so rotating a key back by `length` moves it `length` positions to the left.
    """
    c, size = config, config.local.window
    back_1W = jnp.full((1, size), -length)
    keys_BJHE = rotate(keys.keys_BJHE[:, -size:], back_1W, c.rope_base, c.rope)
    return packed(keys_BJHE), packed(keys.values_BJHE[:, -size:])


def slide_documents(config: RMATConfig, before_BW: Array, documents_BC: Array) -> Array:
    """Returns the documents of the window that the next chunk sees, [B, W]."""
    return jnp.concatenate([before_BW, documents_BC], axis=1)[:, -config.local.window :]


def packed(x_BJHE: Array) -> Array:
    """Transposes keys or values to [B, H, E, J], the layout in states.

    The products of one query with all keys then read memory in order.
    """
    return x_BJHE.transpose(0, 2, 3, 1)


def unpacked(x_BHEJ: Array) -> Array:
    """The inverse of `packed`, [B, J, H, E]. XLA folds it into the product that reads it."""
    return x_BHEJ.transpose(0, 3, 1, 2)


def where_rows(mask_B: Array, new: State, old: State) -> State:
    """Takes the rows of `new` where the mask holds, and those of `old` elsewhere."""

    def choose(axis, x, y):
        return jnp.where(mask_B.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1)), x, y)

    return _by_rows(choose, new, old)


def split_rows(state: State, parts: int, *, neighbours: bool = False) -> State:
    """Splits the rows into `parts` equal groups along a new leading axis.

    Group p has the rows whose index is p modulo `parts`, or with `neighbours` the p-th run of rows.
    """

    def split(axis, x):
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        if neighbours:
            return jnp.moveaxis(x.reshape(*before, parts, -1, *after), axis, 0)
        return jnp.moveaxis(x.reshape(*before, -1, parts, *after), axis + 1, 0)

    return _by_rows(split, state)


def merge_rows(state: State, *, neighbours: bool = False) -> State:
    """The inverse of `split_rows`."""

    def merge(axis, x):
        x = jnp.moveaxis(x, 0, axis if neighbours else axis + 1)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return _by_rows(merge, state)


def _by_rows(change: Callable[..., Array], state: State, *others: State) -> State:
    """Applies `change(axis, x, ...)` to every field. `axis`, the rows', is 1 behind L, else 0."""
    changed = {}
    for name, x in vars(state).items():
        axis = 1 if "_LB" in name else 0
        of = functools.partial(change, axis)
        changed[name] = None if x is None else of(x, *(getattr(other, name) for other in others))
    return State(**changed)
