"""PG-19 with 1.3 billion parameters and back-propagation through 65,536 tokens, on a slice of 256
TPU v5e chips.

    # on every host: see docs/pods.md
    srun python train.py --config=configs/pg19_1b.py --workdir=DIR --config.data.tfds_dir=DIR
    # what it takes, without a TPU
    python -m rmat_jax plan --config=configs/pg19_1b.py --topology=v5e:16x16

Hardware: a slice v5e:16x16. A step reads 64 lanes of 64 chunks of 1,024 tokens, 4.2 million tokens.
537 of the 1,309 million parameters are the memory's (keys, values and gates of 16 layers), which
are read once a chunk: 7% of the FLOPs. Expect: it has not been run, only compiled. The plan gives,
of each chip and in each step, a peak of 11.2 of 16 GiB, 1.20e14 FLOPs (0.61 s at the chip's peak)
and 72 GB sent (0.36 s over all its links), nearly all of them along `tensor`. Compared, by the same
plan:

| fsdp x tensor, lanes, chunks | remat | tokens a step | peak, GiB | GB sent | s comp. | s sent |
|---|---|---|---|---|---|---|
| 64 x 4, 64, 64: this | chunk | 4.2 million | 11.2 | 72 | 0.61 | 0.36 |
| 64 x 4, 64, 64 | chunk+block | 4.2 million | 5.7 | 90 | 0.75 | 0.45 |
| 32 x 8, 32, 64: sends longest | chunk | 2.1 million | 5.6 | 89 | 0.31 | 0.45 |

A lane is computed by the devices of `tensor` alone, so with few of them there are many lanes, and
with few tokens a step for each of them short back-propagation. On 16 and 64 chips (4 and 16 lanes,
mesh.fsdp 4 and 16) it fits as well, and a chip computes the same and sends within 1% of it:
docs/pods.md.
"""

from rmat_jax import flags


def get_config():
    # of which the plan's figures are
    config = flags.defaults()
    config.data.tfds = "pg19"
    config.data.tfds_feature = "book_text"
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
    config.model.remat = "chunk+block"
    config.mesh.fsdp = 64
    config.mesh.tensor = 4
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
