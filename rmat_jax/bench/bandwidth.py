"""How fast this machine reads memory: what no decoder can beat."""

import time

import jax
import jax.numpy as jnp

# bytes, several times the last-level cache of most machines
LARGE = 1 << 29
COLUMNS = 4096


def read_seconds(size: float, least: int = 1 << 28) -> float:
    """To read one buffer of `size` bytes, again and again, as a decoder reads its weights: from a
    cache if one holds it.
    """
    buffer = jnp.ones((max(1, round(size / (4 * COLUMNS))), COLUMNS), jnp.float32)
    times = -(-least // buffer.nbytes)
    _read(buffer, 1).block_until_ready()
    start = time.perf_counter()
    _read(buffer, times).block_until_ready()
    return (time.perf_counter() - start) / times * size / buffer.nbytes


@jax.jit
def _read(buffer, times):
    # begins with the peak so far, or one reading would do for all
    def again(_, peak):
        return jax.lax.reduce(buffer, peak, jax.lax.max, (1,)).max() + 1

    return jax.lax.fori_loop(0, times, again, jnp.float32(0))
