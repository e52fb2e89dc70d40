"""Sampling of tokens from logits."""

import jax
import jax.numpy as jnp

from rmat_jax.types import Array


def sample(
    keys_B: Array, logits_BV: Array, temperature_B: Array, top_k_B: Array, top_p_B: Array
) -> Array:
    """Samples one token for each row, by the row's key and rules.

    Args:
        keys_B: typed PRNG keys.
        logits_BV: float32.
        temperature_B: divides the logits; 0 takes the most likely token.
        top_k_B: keeps the k most likely tokens; 0: all.
        top_p_B: keeps the fewest tokens that together have at least this probability, of those that
            top-k left; 1: all. Both keep all tokens that are as likely as the last one kept.
    """
    below_BV = logits_BV - logits_BV.max(
        -1,
        keepdims=True,
        # so that with a small temperature no logit becomes plus infinity
    )
    scaled_BV = below_BV / jnp.where(temperature_B > 0, temperature_B, 1)[:, None]
    random_B, cuts_B = temperature_B > 0, (top_k_B > 0) | (top_p_B < 1)

    def draw():
        kept_BV = jax.lax.cond(
            (random_B & cuts_B).any(),
            lambda: _likeliest(scaled_BV, top_k_B, top_p_B),
            lambda: scaled_BV,
        )
        return jax.vmap(jax.random.categorical)(
            keys_B, jnp.where(cuts_B[:, None], kept_BV, scaled_BV)
        )

    # Sorting and random numbers for a large vocabulary take longer than a small model, so they are
    # computed only if a row asks for them.
    greedy_B = logits_BV.argmax(-1)
    drawn_B = jax.lax.cond(random_B.any(), draw, lambda: greedy_B)
    return jnp.where(random_B, drawn_B, greedy_B).astype(jnp.int32)


def _likeliest(logits_BV: Array, top_k_B: Array, top_p_B: Array) -> Array:
    """Returns the logits, -inf for tokens that top-k or top-p exclude."""
    vocab_size = logits_BV.shape[1]
    falling_BV = -jnp.sort(-logits_BV, axis=-1)
    count_B1 = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, vocab_size), vocab_size)[:, None]
    floor_B1 = jnp.take_along_axis(falling_BV, count_B1 - 1, axis=1)
    share_BV = jax.nn.softmax(jnp.where(falling_BV < floor_B1, -jnp.inf, falling_BV), axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    # the sum of all may round to less than 1, or more
    limit_B1 = jnp.where(top_p_B < 1, top_p_B, jnp.inf)[:, None]
    count_B1 = (before_BV < limit_B1).sum(-1, keepdims=True)
    floor_B1 = jnp.maximum(
        floor_B1, jnp.take_along_axis(falling_BV, jnp.maximum(count_B1, 1) - 1, axis=1)
    )
    return jnp.where(logits_BV < floor_B1, -jnp.inf, logits_BV)
