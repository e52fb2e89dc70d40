"""PG-19 at the size of the Block-Recurrent Transformer (arXiv 2203.07852), on 16 TPU v5e chips.

    # the books, as in pg19.py; then on every host: see docs/pods.md
    python train.py --config=configs/pg19_150m.py --workdir=DIR
    # what it takes, without a TPU
    python -m rmat_jax plan --config=configs/pg19_150m.py --topology=v5e:4x4

Equal to that model (its code is google-research/meliad): 12 layers, width 1,024, 8 heads of 128, an
MLP of 4,096, a vocabulary of 32 thousand tokens, and training on segments of 4,096 tokens with the
state carried from one to the next. Different: every layer is the hybrid block, with chunks of 512
tokens, a memory of the last 1,024 tokens' inputs and a window of 128. With tied embeddings it has
186 million parameters. It has rotary positions instead of T5's, AdamW with a cosine instead of
Adafactor, and no dropout. The 32 lanes and all rates are our choice. The byte-pair vocabulary is
trained on the corpus, so compare bits a byte, or perplexity a word, not perplexity a token.

Hardware: a slice v5e:4x4, or any number of devices that divides 32. With fewer devices of 16 GB,
add --config.accumulation=2 or more, so that two lanes are computed at a time. Expect: it has not
been run, only compiled. For each chip of v5e:4x4 and each step of 131,072 tokens the plan gives a
peak of 4.7 of 16 GiB, 1.7e13 FLOPs (0.09 s at the chip's peak), 1.4 GB sent (0.007 s over all its
links), and the compiler's estimate of 0.39 s without the kernels of attention.
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
    # the TPU's kernels take multiples of 128
    config.model.local.window = 128
    config.model.dtype = "bfloat16"
    config.model.remat = "block"
    config.batch_size = 32
    config.chunks_per_step = 8
    config.steps = 500_000
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 1000
    config.log.eval_every = 5000
    config.log.save_every = 1000
    config.eval_batch_size = 32
    config.eval_tokens = 2_000_000
    return config
