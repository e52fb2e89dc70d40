"""A pass key in a novel: the text states a number once, and asks for it at the end.

Only the number's digits are scored.

    git clone https://github.com/computationalstylistics/100_english_novels
    python train.py --config=configs/passkey.py --workdir=runs/passkey
    python -m rmat_jax evaluate --workdir=runs/passkey/stage-4 --suite=recall \\
        --max_tokens=1048576 --out=runs/passkey/report

Each of three layers has slots for one chunk, so older facts are there only because the gate kept
them. The gate must tell the key from other numbers by the words before it. So slots are made of the
layers' outputs, and the sliding window of the local branch brings these words across the chunk's
border. The tokens are byte pairs, so that the sentence is short compared with the chunk. The slots
have no bias, since among 32 tokens chance finds a digit often enough to learn from. Any folder of
long texts will do (`--config.data.path=FOLDER`). Hardware: one CPU core. docs/passkey.md has the
table.
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
    config.optim.warmup_steps = 20
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.eval_tokens = 65_536
    config.log.eval_every = 0
    config.log.sample_tokens = 0
    return config


def get_stages():
    """Documents have 2, 8, 32 and 128 chunks. Long ones alone ask too rarely to learn from."""
    stages = [
        stage(2, lanes=64, steps=600, rate=2e-3),
        stage(8, lanes=32, steps=1200, rate=2e-3),
        stage(32, lanes=16, steps=300, rate=1e-3),
        stage(128, lanes=8, steps=200, rate=1e-3),
    ]
    for later in stages[1:]:
        later["data.passkey_decoys"] = 0.5
    for later in stages[2:]:
        later["data.recall_place"] = "even"
    return stages


def stage(chunks, lanes, steps, rate):
    """Returns the settings of a stage. A document is as long as a step, so every step asks."""
    return {
        "data.recall_gap": chunks - 2,
        "chunks_per_step": chunks,
        "batch_size": lanes,
        "steps": steps,
        "optim.learning_rate": rate,
    }
