"""A pass key in a novel: a number told once, somewhere in the text, and asked for at the end.

Only its digits are scored.

    git clone https://github.com/computationalstylistics/100_english_novels
    python benchmarks/far_recall.py --out=runs/passkey --task=passkey

Three layers with slots for one chunk: what is older is there only because the gate kept it. The
gate must tell the key from other numbers by the words before it: so slots are of the layers'
outputs, and a sliding window, in the local branch, brings these words across the chunk's border.
Byte pairs, so that the sentence is short against the chunk, and slots without a bias: among 32
tokens a digit is found by chance often enough to learn from. Any folder of long texts will do
(`--config.data.path=FOLDER`). Hardware: one CPU core. docs/results.md has the table.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.data.path = "100_english_novels/corpus"
    config.data.tokenizer = "bpe"
    config.data.passkey = True
    config.data.recall_gap = 0
    config.data.recall_place = "any"
    config.model.vocab_size = 1024
    config.model.width = 64
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 32
    config.model.local.sliding = True
    # the sentence up to the last digit takes 12 tokens
    config.model.local.window = 16
    config.model.memory.slots = 32
    config.model.memory.keeps = "outputs"
    config.model.memory.key_bias = 0.0
    config.model.memory.gate_bias = 0.0
    config.batch_size = 64
    config.chunks_per_step = 2
    config.steps = 1000
    config.optim.learning_rate = 2e-3
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.eval_tokens = 65_536
    config.log.eval_every = 200
    config.log.sample_tokens = 0
    return config
