"""Back-propagation through a million tokens of one lane, on 16 TPU v5e chips.

    # on every host: see docs/pods.md
    python train.py --config=configs/million.py --workdir=DIR --config.data.tfds_dir=DIR
    # what it takes, without a TPU
    python -m rmat_jax plan --config=configs/million.py --topology=v5e:4x4

The model and the data of pg19_150m.py. Each chip has 65,536 tokens of the lane, and hands its
memory and its window to the next one. Expect: it has not been run, only compiled. The plan gives, of
each chip and in each step, MILLION.
"""

from configs import pg19_150m


def get_config():
    config = pg19_150m.get_config()
    config.mesh.context = 16
    config.batch_size = 1
    config.chunks_per_step = 2048
    config.eval_batch_size = 1
    return config
