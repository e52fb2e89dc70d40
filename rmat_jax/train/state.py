"""The train state, which a checkpoint holds and from which a run resumes."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rmat_jax.config import Config
from rmat_jax.model import RMAT
from rmat_jax.modules.state import State, initial_state
from rmat_jax.train import averages
from rmat_jax.train.bad_steps import COUNTS, Health, healthy
from rmat_jax.types import Array, PyTree


@struct.dataclass
class TrainState:
    """The state of a training run. The train step maps one to the next."""

    # the number of train steps done, bad ones included; also the position in the data
    step: Array
    params: PyTree
    opt_state: PyTree
    # typed PRNG key; folded by the step, never replaced
    key: Array
    # the model's state of every lane, at a chunk's border
    carried: State
    health: Health
    # the moving average of `params`; None: there is no average
    ema: PyTree | None = None

    def moved_to(self, step: int, health: Health) -> "TrainState":
        """Returns the same state at another position in the data.

        Args:
            step: the step to go on from.
            health: the health at that step. Its counts of bad steps are taken over.
        """

        def put(value: int, old: Array) -> Array:
            return jax.device_put(jnp.asarray(value, old.dtype), old.sharding)

        mine = self.health
        counts = {name: put(getattr(health, name), getattr(mine, name)) for name in COUNTS}
        return self.replace(step=put(step, self.step), health=mine.replace(**counts))


def init_state(
    config: Config, optimizer: optax.GradientTransformation, params: PyTree | None = None
) -> TrainState:
    """Makes the state before the first step, from `config.seed` alone, or with given weights."""
    model = RMAT(config.model)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    if params is None:
        params = model.init(init_key, jnp.zeros((1, config.model.chunk_len), jnp.int32))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=key,
        ema=averages.begin(config.optim, params),
        carried=initial_state(config.model, config.batch_size),
        health=healthy(),
    )
