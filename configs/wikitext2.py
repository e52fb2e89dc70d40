"""WikiText-2 from local files, as a byte-pair vocabulary of 8,192 entries trained on its training text.

    python train.py --config=configs/wikitext2.py --workdir=runs/wikitext2 \\
        --config.data.path=wiki.train.tokens --config.data.heldout_path=wiki.valid.tokens

Hardware: one accelerator with 16 GB. 11 million bytes are little for 10 million parameters, hence the dropout.
Expect: held-out bits per byte, which do not depend on the vocabulary. It has not been trained yet, so no score is claimed.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.data.path = "wiki.train.tokens"
    config.data.heldout_path = "wiki.valid.tokens"
    config.data.tokenizer = "bpe"
    config.model.vocab_size = 8192
    config.model.tie_embeddings = True
    config.model.width = 320
    config.model.num_layers = 6
    config.model.num_heads = 10
    config.model.chunk_len = 128
    config.model.dropout = 0.3
    config.model.dtype = "bfloat16"
    config.model.remat = "block"
    config.batch_size = 16
    config.chunks_per_step = 4
    config.steps = 10_000
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 500
    config.log.eval_every = 1000
    config.log.save_every = 1000
    config.eval_tokens = 500_000
    return config
