"""WikiText-2 by words from local files, to compare with perplexities in the literature.

    python train.py --config=configs/wikitext2.py --workdir=runs/wikitext2
    python -m rmat_jax ablate --config=configs/wikitext2.py --out=runs/grid \\
        --variants="memory off,transformer-xl"

The files wiki.{train,valid,test}.tokens lie in the working directory. The validation text is held
out, or with `--config.data.heldout_path=wiki.test.tokens` the test text. Every word and every line
break is a token, so perplexity a token is perplexity a word. The dropout is large, since two
million words are little for 24 million parameters. The run makes thirteen passes. Hardware: one
accelerator with 16 GB, five minutes. Expect: perplexity near 97 on the test text, and near 104
without memory. docs/ablations.md has the table.
"""

from rmat_jax import flags
from rmat_jax.config import QUEUE


def get_config():
    config = flags.defaults(QUEUE)
    config.data.path = "wiki.train.tokens"
    config.data.heldout_path = "wiki.valid.tokens"
    config.data.tokenizer = "words"
    # 33,282 words, 256 characters, the end of a document
    config.model.vocab_size = 33_539
    config.model.tie_embeddings = True
    config.model.width = 384
    config.model.num_layers = 6
    config.model.num_heads = 6
    config.model.chunk_len = 128
    config.model.memory.slots = 512
    config.model.dropout = 0.4
    config.model.dtype = "bfloat16"
    config.batch_size = 16
    config.chunks_per_step = 4
    config.steps = 3300
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 200
    config.log.eval_every = 0
    config.log.save_every = 0
    config.log.sample_tokens = 0
    # the whole validation text, or the whole test text
    config.eval_tokens = 300_000
    config.eval_batch_size = 4
    return config
