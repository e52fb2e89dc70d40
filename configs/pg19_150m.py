"""PG-19 at the size of the Block-Recurrent Transformer (arXiv 2203.07852), on 16 TPU v5e chips.

    # on every host: see docs/pods.md
    python train.py --config=configs/pg19_150m.py --workdir=DIR --config.data.tfds_dir=DIR
    # what it takes, without a TPU
    python -m rmat_jax plan --config=configs/pg19_150m.py --topology=v5e:4x4

As there (its code is google-research/meliad): 12 layers, width 1,024, 8 heads of 128, an MLP of
4,096, 151 million parameters in these; 32 thousand tokens of vocabulary; a window of 512 tokens;
training on segments of 4,096 tokens with the state carried from one to the next; 512 state vectors.
Not as there: every layer has a memory, there one has; keys, values and gates of the memories are
101 million parameters more (and 20% more FLOPs), the tied table of embeddings 34 million. 32 of the
512 vectors are written a chunk, there all of them. Rotary positions instead of T5's, AdamW with a
cosine instead of Adafactor, no dropout, 32 lanes and all rates our choice, a byte-pair vocabulary
trained on the corpus: compare bits a byte, or perplexity a word, not a token.

Hardware: a slice v5e:4x4, or any number of devices that divides 32; with fewer of 16 GB,
--config.accumulation=2 or more, so that two lanes are computed at a time. Expect: it has not been
run, only compiled. The plan for v5e:4x4 gives, of each chip and in each step of 131,072 tokens, a
peak of 9.1 of 16 GiB, 2.0e13 FLOPs (0.10 s at the chip's peak) and 2.1 GB sent (0.011 s over all
its links); with mesh.fsdp=16 a peak of 5.8 GiB and 2.8 GB sent.
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
    config.model.width = 1024
    config.model.num_layers = 12
    config.model.num_heads = 8
    config.model.mlp_width = 4096
    config.model.chunk_len = 512
    # what the TPU's kernels take: multiples of 128
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
