"""PG-19 (whole books, arXiv 1911.05507), with a byte-pair vocabulary of 32,768 entries.

    gcloud storage cp -r gs://deepmind-gutenberg/train gs://deepmind-gutenberg/validation pg19/
    python -m rmat_jax prepare --config=configs/pg19.py
    python train.py --config=configs/pg19.py --workdir=runs/pg19

The books are plain files, one each, 11 GB. If they lie elsewhere, add --config.data.path=TRAIN
--config.data.heldout_path=VALIDATION. `prepare` makes vocabulary and tokens on all cores, once for
all runs; without it the first training makes them. TensorFlow Datasets has the same books, but
needs TensorFlow to prepare them. To read a prepared copy, add --config.data.path=
--config.data.heldout_path= --config.data.format=auto --config.data.tfds=pg19
--config.data.feature=book_text --config.data.tfds_dir=DIR.

Hardware: one accelerator with 80 GB. Back-propagation spans 16 chunks = 8,192 tokens. Expect: it
has not been run, since the books could not be downloaded. The readers are tested on small datasets
of the same kinds.
"""

from rmat_jax import flags
from rmat_jax.config import QUEUE


def get_config():
    config = flags.defaults(QUEUE)
    config.data.path = "pg19/train"
    config.data.heldout_path = "pg19/validation"
    config.data.format = "text"
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
