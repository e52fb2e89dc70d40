"""From logits to tokens."""

import jax
import jax.numpy as jnp

from rmat_jax.types import Array


def sample(keys_B: Array, logits_BV: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """One token for each row, by its own key.

    Args:
        keys_B: typed PRNG keys.
        logits_BV: float32.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: only the k most likely tokens (ties with the k-th stay); 0: all. A Python number.
        top_p: only the fewest tokens that together have at least this probability; 1: all.
    """
    logits_BV = logits_BV / jnp.where(temperature > 0, temperature, 1)
    if top_k:
        kth_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    order_BV = jnp.argsort(-logits_BV, axis=-1)
    ordered_BV = jax.nn.softmax(jnp.take_along_axis(logits_BV, order_BV, axis=-1), axis=-1)
    before_BV = jnp.cumsum(ordered_BV, axis=-1) - ordered_BV
    rank_BV = jnp.argsort(order_BV, axis=-1)
    kept_BV = jnp.take_along_axis(before_BV, rank_BV, axis=-1) < top_p
    kept_BV |= rank_BV == 0
    sampled_B = jax.vmap(jax.random.categorical)(keys_B, jnp.where(kept_BV, logits_BV, -jnp.inf))
    return jnp.where(temperature > 0, sampled_B, logits_BV.argmax(-1)).astype(jnp.int32)
