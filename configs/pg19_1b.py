"""PG-19 with 1.1 billion parameters and back-propagation through 65,536 tokens, on a slice of 256
TPU v5e chips.

    # the books, as in pg19.py; then on every host: see docs/pods.md
    srun python train.py --config=configs/pg19_1b.py --workdir=DIR
    # what it takes, without a TPU
    python -m rmat_jax plan --config=configs/pg19_1b.py --topology=v5e:16x16

The hybrid block has 20 layers, width 2,048, 16 heads, chunks of 1,024 tokens, a memory of the last
2,048 tokens' inputs and a window of 256. A step reads 64 lanes of 64 chunks, 4.2 million tokens.
Four chips share the time of a lane. Hardware: a slice v5e:16x16. Expect: it has not been run, only
compiled. For each chip and step the plan gives a peak of 13.2 of 16 GiB, 1.9e14 FLOPs (0.95 s at
the chip's peak), 8.2 GB sent (0.04 s over all its links), and the compiler's estimate of 3.2 s
without the kernels of attention.
"""

from rmat_jax import flags


def get_config():
    # the plan's figures are those of the default block
    config = flags.defaults()
    config.data.path = "pg19/train"
    config.data.heldout_path = "pg19/validation"
    config.data.format = "text"
    config.data.tokenizer = "bpe"
    config.model.vocab_size = 32_768
    config.model.tie_embeddings = True
    config.model.width = 2048
    config.model.num_layers = 20
    config.model.num_heads = 16
    config.model.mlp_width = 8192
    config.model.chunk_len = 1024
    config.model.local.window = 256
    config.model.dtype = "bfloat16"
    config.model.remat = "block"
    config.mesh.fsdp = 64
    config.mesh.context = 4
    config.batch_size = 64
    config.chunks_per_step = 64
    config.steps = 20_000
    config.optim.learning_rate = 3e-4
    config.optim.warmup_steps = 1000
    config.log.eval_every = 2000
    config.log.save_every = 500
    config.eval_batch_size = 64
    config.eval_tokens = 4_000_000
    return config
