"""Whole novels, documents of 46,000 to 970,000 tokens, on two CPU cores.

    git clone https://github.com/computationalstylistics/100_english_novels
    python -m rmat_jax ablate --config=configs/novels.py --out=runs/novels \\
        --variants=baselines --seeds=0,1,2

Any folder of long texts will do (`--config.data.path=FOLDER`). The tokens are byte pairs. The
memory of the hybrid block has a slot for each token of four chunks of 128, and training spans 1,024
tokens. Hardware: one CPU core, 7 to 40 minutes a run. Expect: near 1.89 bits per byte, and 1.90
with the variant `queue`. docs/ablations.md has the
tables.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.data.path = "100_english_novels/corpus"
    config.data.tokenizer = "bpe"
    config.model.vocab_size = 1024
    config.model.width = 128
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 128
    config.model.local.window = 64
    config.model.memory.slots = 512
    config.model.remat = "block"
    config.batch_size = 2
    config.chunks_per_step = 8
    config.steps = 2500
    config.optim.learning_rate = 3e-3
    config.optim.warmup_steps = 50
    config.eval_tokens = 500_000
    config.log.eval_every = 0
    config.log.sample_tokens = 0
    return config
