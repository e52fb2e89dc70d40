"""The paper's architecture as we read it, at the quickstart's size: three branches with a share
each, and a pooled and gated memory.

    python train.py --config=configs/paper.py --workdir=runs/paper
    python -m rmat_jax ablate --config=configs/paper.py --out=runs/grid --seeds=0,1,2

Hardware: two CPU cores, four minutes. Expect: held-out bits per byte near 2.35 with memory and 2.45
when it is emptied before each chunk (Python 3.11.7's library). docs/ablations.md says why the
defaults of `RMATConfig` differ.
"""

from rmat_jax import flags
from rmat_jax.config import PAPER


def get_config():
    config = flags.defaults(PAPER)
    config.model.width = 128
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.chunk_len = 64
    config.model.local.window = 16
    config.model.local.sliding = True
    config.model.memory.slots = 64
    config.model.memory.writes = 8
    # many small steps learn most from few tokens
    config.batch_size = 4
    config.chunks_per_step = 4
    config.steps = 1000
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 50
    config.log.eval_every = 500
    config.log.sample_prompt = "def "
    return config
