"""enwik8 (the first 100 million bytes of an English Wikipedia dump) as bytes, from a local file.

    python train.py --config=configs/enwik8.py --workdir=runs/enwik8 --config.data.path=enwik8

The last 10 % are held out, which joins the usual validation and test sets of 5 million bytes each.
Hardware: one accelerator with 40 GB. Expect: bits per byte on `eval_tokens` of the held-out text.
It has not been trained yet, so no score is claimed.
"""

from rmat_jax import flags
from rmat_jax.config import QUEUE


def get_config():
    config = flags.defaults(QUEUE)
    config.data.path = "enwik8"
    config.data.heldout_fraction = 0.1
    config.model.width = 512
    config.model.num_layers = 12
    config.model.num_heads = 8
    config.model.chunk_len = 512
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.model.remat = "block"
    config.batch_size = 32
    config.chunks_per_step = 8
    config.steps = 100_000
    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 2000
    config.log.eval_every = 5000
    config.log.save_every = 1000
    config.eval_tokens = 1_000_000
    return config
