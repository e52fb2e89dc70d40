"""Measures how fast this machine reads memory, a speed that no decoder can exceed."""

import time

import jax
import jax.numpy as jnp

# bytes of a buffer several times the last-level cache of most machines
LARGE = 1 << 29
COLUMNS = 4096


def read_seconds(size: float, least: int = 1 << 28) -> float:
    """The time to read a buffer of `size` bytes. It is read again and again, as a decoder reads its
    weights, so from a cache if one holds it.
    """
    buffer = jnp.ones((max(1, round(size / (4 * COLUMNS))), COLUMNS), jnp.float32)
    times = -(-least // buffer.nbytes)
    _read(buffer, 1).block_until_ready()
    start = time.perf_counter()
    _read(buffer, times).block_until_ready()
    return (time.perf_counter() - start) / times * size / buffer.nbytes


@jax.jit
def _read(buffer, times):
    # each reading depends on the one before, or the compiler would make only one
    def again(_, peak):
        return jax.lax.reduce(buffer, peak, jax.lax.max, (1,)).max() + 1

    return jax.lax.fori_loop(0, times, again, jnp.float32(0))
