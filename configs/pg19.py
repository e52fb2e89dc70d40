"""PG-19 (whole books, arXiv 1911.05507) through TensorFlow Datasets, with a byte-pair vocabulary of
32,768 entries.

    python train.py --config=configs/pg19.py --workdir=runs/pg19 --config.data.tfds_dir=DIR

Hardware: one accelerator with 80 GB. The first start downloads 11 GB into DIR, trains the
vocabulary and writes the corpus as tokens into the workdir; later starts read these.
Back-propagation spans 16 chunks = 8,192 tokens. Expect: it has not been run, since the data set
could not be downloaded where this was written; the reader is tested on a small data set of the same
kind.
"""

from rmat_jax import flags
from rmat_jax.config import QUEUE


def get_config():
    config = flags.defaults(QUEUE)
    config.data.tfds = "pg19"
    config.data.feature = "book_text"
    config.data.tokenizer = "bpe"
    config.model.vocab_size = 32_768
    config.model.tie_embeddings = True
    config.model.width = 768
    config.model.num_layers = 12
    config.model.num_heads = 12
    config.model.chunk_len = 512
    config.model.dtype = "bfloat16"
    config.model.remat = "chunk+block"
    config.batch_size = 32
    config.chunks_per_step = 16
    config.steps = 100_000
    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 2000
    config.log.eval_every = 5000
    config.log.save_every = 1000
    config.eval_tokens = 2_000_000
    return config
