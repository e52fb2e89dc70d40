"""Key-value recall across chunks, beyond the queue's length, a test of the gate.

    python train.py --config=configs/recall.py --workdir=runs/recall
    python train.py --config=configs/recall.py --workdir=runs/recall-queue \\
        --config.model.memory.gate=none
    python train.py --config=configs/recall.py --workdir=runs/recall-local \\
        --config.model.branches=full,local

Four pairs stand in the first chunk of a document, four chunks of noise follow, and the last chunk
asks for the values. The queue holds the entries of two chunks, so the gate must keep a fact when
its slot is written over, twice. Chance is 1/8. Hardware: one CPU core, a few minutes. Expect:
accuracy 1.0 with the gate, and 1/8 without it. docs/recall.md has the table.
"""

from rmat_jax import flags
from rmat_jax.config import PAPER


def get_config():
    config = flags.defaults(PAPER)
    config.data.synthetic = "recall"
    config.data.recall_pairs = 4
    config.data.recall_gap = 4
    config.data.recall_symbols = 8
    # 8 kinds of noise, 8 keys, 8 values
    config.model.vocab_size = 24
    config.model.width = 64
    config.model.num_layers = 2
    config.model.num_heads = 4
    config.model.chunk_len = 16
    config.model.local.window = 8
    config.model.local.sliding = False
    config.model.memory.slots = 16
    config.model.memory.writes = 8
    config.batch_size = 32
    config.chunks_per_step = 6
    config.steps = 600
    config.optim.learning_rate = 2e-3
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.log.eval_every = 200
    return config
