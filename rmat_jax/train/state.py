"""All that a training run is: what a checkpoint holds and a resumed run starts from."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rmat_jax.config import Config
from rmat_jax.model import RMAT
from rmat_jax.modules.state import State, initial_state
from rmat_jax.types import Array, PyTree


@struct.dataclass
class TrainState:
    """A value: the train step maps one to the next."""

    # optimiser steps done; also the position in the data
    step: Array
    params: PyTree
    opt_state: PyTree
    # typed PRNG key; folded by the step, never replaced
    key: Array
    # what the model remembers of every lane, at a chunk's border
    carried: State


def init_state(config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, from `config.seed` alone."""
    model = RMAT(config.model)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    params = model.init(init_key, jnp.zeros((1, config.model.chunk_len), jnp.int32))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=key,
        carried=initial_state(config.model, config.batch_size),
    )
