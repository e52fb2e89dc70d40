"""Key-value recall at any distance, with the hybrid block: what the slot gate is for.

    python benchmarks/far_recall.py --out=runs/far_recall
    python benchmarks/far_recall.py --out=runs/far_queue --config.model.branches=full,memory \\
        --config.model.memory.gate=none

Four pairs stand anywhere in a document of noise, the last chunk asks for the values. The queue
holds two chunks' worth of entries. The benchmark trains in stages, on documents of 8, 64 and 256
chunks; by itself this file is the first of them. The gate starts half open: where slots are full of
noise when the fact comes, an almost shut gate hardly writes it. Chance is 1/8. Hardware: one CPU
core, five to ten minutes. Expect: accuracy 1.0 a million tokens later: docs/results.md has the
table.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.data.synthetic = "recall"
    config.data.recall_pairs = 4
    config.data.recall_gap = 6
    config.data.recall_place = "any"
    config.data.recall_symbols = 8
    # 8 kinds of noise, 8 keys, 8 values
    config.model.vocab_size = 24
    config.model.width = 64
    config.model.num_layers = 2
    config.model.num_heads = 4
    config.model.chunk_len = 16
    config.model.local.window = 8
    config.model.memory.slots = 16
    config.model.memory.writes = 8
    config.model.memory.gate_bias = 0.0
    config.batch_size = 32
    config.chunks_per_step = 8
    config.steps = 600
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 20
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.log.eval_every = 0
    return config
