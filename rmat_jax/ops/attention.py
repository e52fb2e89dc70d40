"""The attention of the hybrid block, in plain code. Faster versions must compute the same.

    A = sum over branches b of  share_b * softmax(q k^T / sqrt(E) + bias, where mask_b) v

A branch is a mask over one row of scores. The scores are computed once, the weights of the branches
are added, and there is one product with the values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.types import Array


class Keys(NamedTuple):
    """J keys and values, with the documents and positions that decide which queries see them."""

    keys_BJHE: Array
    values_BJHE: Array
    # the id of each key's document; -1: padding
    documents_BJ: Array
    # positions in the chunk, negative before it; None: slots, which any query of the document sees
    positions_BJ: Array | None = None

    def followed_by(self, more: "Keys") -> "Keys":
        """Appends more keys. The result has no positions."""
        return Keys(
            *(jnp.concatenate(both, axis=1) for both in zip(self[:3], more[:3], strict=True))
        )

    def padded(self, count: int) -> "Keys":
        """Puts `count` keys of padding before these. The result has no positions."""

        def pad(x_BJ, value):
            widths = ((0, 0), (count, 0)) + ((0, 0),) * (x_BJ.ndim - 2)
            return jnp.pad(x_BJ, widths, constant_values=value)

        return Keys(pad(self.keys_BJHE, 0), pad(self.values_BJHE, 0), pad(self.documents_BJ, -1))

    def cut(self, size: int, step: int, count: int, first: int) -> "Keys":
        """Cuts these as `pieces` does. Each piece has the positions from `first` on."""
        # positions are NumPy arrays, so that masks are constants when the program is compiled
        places_1J = np.arange(first, first + size)[None]
        return Keys(*(pieces(x, size, step, count) for x in self[:3]), places_1J)


def pieces(x_BJ: Array, size: int, step: int, count: int) -> Array:
    """Cuts each row into pieces, which become rows, [B * count, size, ...]. They may overlap.

    Row `b * count + g` has `size` entries of row b, from `g * step` on.
    """
    blocks = -(-size // step)
    front = blocks * step - size
    x_BJ = x_BJ[:, : size + (count - 1) * step]
    x_BJ = jnp.pad(x_BJ, ((0, 0), (front, 0)) + ((0, 0),) * (x_BJ.ndim - 2))
    x_BGS = x_BJ.reshape(len(x_BJ), -1, step, *x_BJ.shape[2:])
    # slices, since the gradient of a gather would add up one entry at a time
    x_BGJ = jnp.concatenate([x_BGS[:, at : at + count] for at in range(blocks)], axis=2)
    return x_BGJ[:, :, front:].reshape(-1, size, *x_BJ.shape[2:])


def row_of_scores(
    asked: Sequence[Array], parts: Sequence[Keys], biases_H: Sequence[Array | None]
) -> list[Array]:
    """Scores queries against the keys of each part, without a mask.

    Args:
        asked: for each part its queries [B, S, H, E].
        parts: the keys, which are not joined, to save a copy.
        biases_H: for each part the bias that each head adds to its scores, or None.

    Returns:
        For each part `q k^T / sqrt(E) + bias`, [B, H, S, J], in float32 (float64 if q is).
    """
    row = []
    for q_BSHE, part, bias_H in zip(asked, parts, biases_H, strict=True):
        wide = jnp.promote_types(q_BSHE.dtype, jnp.float32)
        scores_BHSJ = jnp.einsum(
            "bshe,bjhe->bhsj", q_BSHE, part.keys_BJHE, preferred_element_type=wide
        )
        scores_BHSJ *= q_BSHE.shape[-1] ** -0.5
        if bias_H is not None:
            scores_BHSJ += bias_H.astype(wide).reshape(1, -1, 1, 1)
        row.append(scores_BHSJ)
    return row


def mix_branches(
    row: Sequence[Array], masks: Sequence[Sequence[Array | None]], shares: Sequence[Array]
) -> list[Array]:
    """Adds up the softmax of each branch, weighted with its share.

    Args:
        row: the scores of each part, [B, H, S, J].
        masks: for each branch and part the mask [B, S, J]; None: the branch shows nothing of it.
        shares: the share of each branch; they add up to 1.

    Returns:
        For each part the weights [B, H, S, J]. A query that sees nothing in a branch gets zeros.
    """
    weights: list = [0.0] * len(row)
    for shown, share in zip(masks, shares, strict=True):
        seen = [place for place, mask in enumerate(shown) if mask is not None]
        # a softmax without the parts that its branch never sees is equal, and cheaper
        scores_BHSJ = jnp.concatenate([row[place] for place in seen], axis=-1)
        mask_B1SJ = jnp.concatenate([shown[place] for place in seen], axis=-1)[:, None]
        found_BHSJ = jax.nn.softmax(scores_BHSJ, where=mask_B1SJ)
        if len(shares) > 1:
            found_BHSJ *= share
        start = 0
        for place in seen:
            stop = start + row[place].shape[-1]
            weights[place] += found_BHSJ[..., start:stop]
            start = stop
    return weights


def read_values(weights: Sequence[Array], parts: Sequence[Keys]) -> Array:
    """Sums the values of all parts by their weights, [B, S, H, E], in the values' dtype."""
    dtype = parts[0].values_BJHE.dtype
    return sum(
        jnp.einsum(
            "bhsj,bjhe->bshe",
            weights_BHSJ.astype(dtype),
            part.values_BJHE,
            preferred_element_type=weights_BHSJ.dtype,
        )
        for weights_BHSJ, part in zip(weights, parts, strict=True)
    ).astype(dtype)
