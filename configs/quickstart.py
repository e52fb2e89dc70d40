"""A small model on the source code of the Python standard library, in less than five minutes.

    make quickstart
    python train.py --config=configs/quickstart.py --workdir=runs/quickstart

The hybrid block has full attention, a sliding window and a gated memory. Hardware: two CPU cores,
two and a half minutes. Expect: held-out bits per byte near 2.17, and 2.20 when the memory is
emptied before each chunk. `gzip -9` needs 2.42, and an order-2 byte model 2.60 (Python 3.11.7's
library; another Python has other files). One million tokens are few, so the loss still falls when
the run ends.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.model.width = 128
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 64
    config.model.local.window = 16
    # twice as fast on a CPU
    config.model.remat = "block"
    # many small steps learn most from few tokens
    config.batch_size = 4
    config.chunks_per_step = 4
    config.steps = 1000
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 50
    config.log.eval_every = 500
    config.log.sample_prompt = "def "
    return config
