"""bAbI's questions in long text. Facts must outlive the text between them.

    python benchmarks/babi.py --babi=tasks_1-20_v1-2/en-10k --text=100_english_novels/corpus \\
        --out=runs/babi

The benchmark writes the stories that this config reads. Each stage has more text between the facts.
Only the answers are scored. Hardware: one CPU core, an hour with other work beside. Expect: 0.74 of
the first task's answers with 64 chunks between the facts. docs/results.md has the table.
"""

from rmat_jax import flags


def get_config():
    config = flags.defaults()
    config.data.path = "runs/babi/stories"
    config.data.format = "messages"
    config.data.tokenizer = "bpe"
    config.data.heldout_fraction = 0.02
    config.model.vocab_size = 1024
    config.model.width = 96
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 64
    config.model.local.window = 16
    config.model.memory.slots = 128
    config.model.memory.gate_bias = 0.0
    config.model.remat = "block"
    config.optim.warmup_steps = 20
    config.optim.beta2 = 0.98
    config.optim.weight_decay = 0.01
    config.log.eval_every = 0
    config.log.sample_tokens = 0
    return config


def get_stages():
    return [
        stage(1, chunks=2, lanes=32, steps=1500, rate=2e-3),
        stage(2, chunks=8, lanes=16, steps=600, rate=2e-3),
        stage(3, chunks=32, lanes=8, steps=200, rate=1e-3),
        stage(4, chunks=128, lanes=4, steps=100, rate=1e-3),
    ]


def stage(number, chunks, lanes, steps, rate):
    """Returns the settings of a stage, which reads the stories NUMBER.jsonl of the benchmark."""
    return {
        "data.pattern": f"{number}.jsonl",
        "chunks_per_step": chunks,
        "batch_size": lanes,
        "steps": steps,
        "optim.learning_rate": rate,
    }
