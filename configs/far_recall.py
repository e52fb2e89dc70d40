"""Key-value recall at any distance with the hybrid block, a test of the slot gate.

    python train.py --config=configs/far_recall.py --workdir=runs/far
    python -m rmat_jax evaluate --workdir=runs/far/stage-3 --suite=recall --max_tokens=1048576 \\
        --out=runs/far/report

Four pairs stand anywhere in a document of noise, and the last chunk asks for the values. The queue
holds the entries of two chunks. Training has three stages, with documents of 8, 64 and 256 chunks,
since long documents alone ask too rarely to learn from. The gate starts half open, since slots are
full of noise when a fact comes, and an almost shut gate would hardly write it. Chance is 1/8.
Hardware: one CPU core, five to ten minutes. Expect: accuracy 1.0 a million tokens later.
docs/recall.md has the table.
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
    config.optim.warmup_steps = 20
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.log.eval_every = 0
    return config


def get_stages():
    return [
        stage(8, lanes=32, steps=600, rate=2e-3),
        stage(64, lanes=16, steps=150, rate=1e-3),
        stage(256, lanes=8, steps=150, rate=1e-3),
    ]


def stage(chunks, lanes, steps, rate):
    """Returns the settings of a stage. A document is as long as a step, so every step asks."""
    return {
        "data.recall_gap": chunks - 2,
        "chunks_per_step": chunks,
        "batch_size": lanes,
        "steps": steps,
        "optim.learning_rate": rate,
    }
