"""The tiny model of the golden dump: every mechanism, sizes that differ wherever they may.

python -m rmat_jax crosscheck --config=tests/interop/golden_config.py --steps=4
--dump=tests/interop/golden.safetensors
"""

from rmat_jax import flags
from rmat_jax.config import PAPER


def get_config():
    config = flags.defaults()
    config.model.update(PAPER)
    config.model.vocab_size = 11
    config.model.width = 8
    config.model.num_layers = 2
    config.model.num_heads = 2
    config.model.mlp_width = 12
    config.model.chunk_len = 8
    config.model.window_len = 4
    config.model.window = "sliding"
    config.model.memory_slots = 5
    config.model.memory_writes = 2
    config.model.memory_pool = "attention"
    config.model.memory_age = "rotary"
    return config
