"""Back-propagation through a million tokens of one lane, on 16 TPU v5e chips.

    # the books, as in pg19.py; then on every host: see docs/pods.md
    python train.py --config=configs/million.py --workdir=DIR
    # what it takes, without a TPU
    python -m rmat_jax plan --config=configs/million.py --topology=v5e:4x4

The model and the data are those of pg19_150m.py. Each chip has 65,536 tokens of the lane, and hands
its memory and its window to the next one. Expect: it has not been run, only compiled. For each chip
and step the plan gives a peak of 14.4 of 16 GiB, 1.2e14 FLOPs (0.63 s at the chip's peak), 1.7 GB
sent (0.008 s over all its links), and the compiler's estimate of 3.9 s without the kernels of
attention.
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
    config.model.width = 1024
    config.model.num_layers = 12
    config.model.num_heads = 8
    config.model.mlp_width = 4096
    config.model.chunk_len = 512
    config.model.local.window = 128
    config.model.dtype = "bfloat16"
    config.model.remat = "block"
    config.mesh.context = 16
    config.batch_size = 1
    config.chunks_per_step = 2048
    config.steps = 60_000
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 1000
    config.log.eval_every = 1000
    config.log.save_every = 200
    config.eval_batch_size = 1
    config.eval_tokens = 2_097_152
    return config
