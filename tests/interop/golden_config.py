"""The tiny model of the golden dump: parts of the default and of the paper, sizes that differ
wherever they may.

python -m rmat_jax crosscheck --config=tests/interop/golden_config.py --steps=4
--dump=tests/interop/golden.safetensors
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.model.vocab_size = 11
    config.model.width = 8
    config.model.num_layers = 2
    config.model.num_heads = 2
    config.model.mlp_width = 12
    config.model.chunk_len = 8
    config.model.local.window = 5
    config.model.memory.slots = 6
    config.model.memory.writes = 2
    config.model.memory.keeps = "outputs"
    config.model.memory.gate = "gru"
    config.model.memory.gate_bias = -2.0
    return config
