"""Source code in chunks of 50 tokens, with the memory as the only way across their borders.

    python -m rmat_jax ablate --config=configs/segments.py --out=runs/seg \\
        --variants="memory off,transformer-xl" --seeds=0,1,2
    python -m rmat_jax ablate ... --config.model.chunk_len=150 \\
        --config.model.memory.slots=300 --config.chunks_per_step=2

The tokens are byte pairs, so that a token is a piece of a word, as in the papers that measured
this. The memory is a queue of the layers' inputs at the tokens of the last four chunks. Hardware:
one CPU core, a quarter of an hour a run. Expect: near 1.30 bits per byte, and 1.54 without memory.
docs/ablations.md has the table.
"""

from rmat_jax import flags
from rmat_jax.config import QUEUE


def get_config():
    config = flags.defaults(QUEUE)
    config.data.tokenizer = "bpe"
    config.model.vocab_size = 1024
    config.model.width = 128
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 50
    # for the variants with a local branch
    config.model.local.window = 25
    config.model.memory.slots = 200
    # twice as fast on a CPU
    config.model.remat = "block"
    config.batch_size = 4
    config.chunks_per_step = 6
    config.steps = 4000
    config.optim.learning_rate = 3e-3
    config.optim.warmup_steps = 50
    config.eval_tokens = 65_536
    config.log.eval_every = 0
    config.log.sample_tokens = 0
    return config
