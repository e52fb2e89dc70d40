"""The capacity of a memory: as many key-value pairs as slots, over any distance.

    python train.py --config=configs/capacity.py --workdir=runs/capacity
    python -m rmat_jax evaluate --workdir=runs/capacity/stage-5 --suite=recall \\
        --max_tokens=1048576 --out=runs/capacity/report

32 pairs stand in one chunk of 64 tokens, and the queue has 32 slots a layer. The last chunk asks
for all values. Chance is 1/32. Hardware: one CPU core, ten minutes. docs/results.md has the map.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.data.synthetic = "recall"
    config.data.recall_pairs = 32
    config.data.recall_symbols = 32
    config.data.recall_place = "any"
    # 8 kinds of noise, 32 keys, 32 values
    config.model.vocab_size = 72
    config.model.width = 64
    config.model.num_layers = 2
    config.model.num_heads = 4
    config.model.chunk_len = 64
    config.model.local.window = 8
    config.model.memory.slots = 32
    config.model.memory.writes = 16
    config.model.memory.gate_bias = 0.0
    # slots are seen from the start
    config.model.memory.key_bias = 0.0
    config.optim.warmup_steps = 20
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.log.eval_every = 0
    return config


def get_stages():
    # few pairs first: with 32 nothing was learned in 600 steps
    few = stage(2, lanes=32, steps=600, rate=2e-3) | {"data.recall_pairs": 4}
    return [
        few,
        stage(2, lanes=32, steps=600, rate=2e-3),
        stage(4, lanes=32, steps=300, rate=2e-3),
        stage(16, lanes=16, steps=150, rate=1e-3),
        stage(64, lanes=8, steps=100, rate=1e-3),
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
