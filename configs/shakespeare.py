"""tinyshakespeare by characters, at the size of nanoGPT, whose held-out loss is 1.4697 nats.

    python train.py --config=configs/shakespeare.py --workdir=runs/shakespeare
    python -m rmat_jax ablate --config=configs/shakespeare.py --out=runs/grid \\
        --variants="memory off,transformer-xl"

The file input.txt lies in the working directory; its last tenth is held out. Hardware: one
accelerator with 16 GB, three minutes. Expect: held-out bits per byte are lowest after half of the
steps, near 2.17 or 1.51 nats a character. Then they rise, since one megabyte is little for 11
million parameters. docs/ablations.md has the table.
"""

from rmat_jax import flags
from rmat_jax.config import QUEUE


def get_config():
    config = flags.defaults(QUEUE)
    config.data.path = "input.txt"
    config.data.heldout_fraction = 0.1
    config.model.width = 384
    config.model.num_layers = 6
    config.model.num_heads = 6
    config.model.chunk_len = 256
    config.model.memory.slots = 512
    config.model.dropout = 0.2
    config.model.dtype = "bfloat16"
    config.batch_size = 32
    config.chunks_per_step = 2
    config.steps = 1800
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.beta2 = 0.99
    config.log.eval_every = 300
    config.log.save_every = 0
    config.log.sample_tokens = 0
    # the whole held-out text
    config.eval_tokens = 200_000
    return config
