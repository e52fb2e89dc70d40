"""A small model on the source code of the Python standard library: five minutes on two CPU cores."""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.model.width = 128
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 64
    config.model.window_len = 16
    config.model.memory_slots = 64
    config.model.memory_writes = 8
    config.batch_size = 8
    config.chunks_per_step = 8
    config.steps = 400
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 50
    return config
