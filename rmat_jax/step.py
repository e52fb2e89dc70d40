"""One step of training and one of evaluation: pure functions, to be jitted by the caller."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rmat_jax.config import IGNORE, Config
from rmat_jax.model import RMAT
from rmat_jax.modules import carry
from rmat_jax.modules.carry import State
from rmat_jax.ops.losses import Scores
from rmat_jax.state import TrainState
from rmat_jax.types import Array, PyTree

Batch = dict[str, Array]  # tokens, targets, documents: [B, T] each


@struct.dataclass
class Sums:
    """What a train step counted. Means are taken on the host."""

    loss: Array  # nats over all scored tokens
    correct: Array  # tokens whose most likely prediction was right
    scored: Array  # tokens
    grad_norm: Array  # of the mean gradient, before clipping


def train_step(
    config: Config, optimizer: optax.GradientTransformation, state: TrainState, batch: Batch
) -> tuple[TrainState, Sums]:
    """Reads T tokens of every lane and takes one optimiser step on their mean loss.

    The lanes' memory comes from the step before and goes to the next; no gradient crosses steps.
    """
    model = RMAT(config.model)
    key = jax.random.fold_in(state.key, state.step)
    scored = (batch["targets"] != IGNORE).sum()

    def mean_loss(params, memory, part, key):
        rngs = {"dropout": key} if config.model.dropout else None
        scores, memory = model.apply(
            {"params": params}, part["tokens"], part["targets"], memory, part["documents"], rngs=rngs, method=RMAT.score
        )
        loss = scores.loss_BT.sum()
        return loss / jnp.maximum(scored, 1), (memory, loss, scores.correct_BT.sum())

    def accumulate(grads, inputs):
        part_grads, out = jax.grad(mean_loss, has_aux=True)(state.params, *inputs)
        return jax.tree.map(jnp.add, grads, part_grads), out

    parts = config.accumulation
    names = ("tokens", "targets", "documents")
    batch_parts = {name: batch[name].reshape(parts, -1, *batch[name].shape[1:]) for name in names}
    inputs = (carry.split_rows(state.memory, parts), batch_parts, jax.random.split(key, parts))
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    if parts == 1:
        grads, out = accumulate(zeros, jax.tree.map(lambda x: x[0], inputs))
        memory, loss, correct = out
    else:
        grads, (memory, loss, correct) = jax.lax.scan(accumulate, zeros, inputs)
        memory, loss, correct = carry.merge_rows(memory), loss.sum(), correct.sum()
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        memory=memory,
    )
    return state, Sums(loss, correct, scored, optax.tree.norm(grads))


def eval_step(
    config: Config, params: PyTree, memory: State, batch: Batch, *, cut: bool = False
) -> tuple[State, Scores]:
    """Scores every token of a batch, with the memory of the lanes, or with the memory emptied before each chunk.

    Args:
        config: the experiment.
        params: the model's.
        memory: of the lanes, closed; goes from call to call.
        batch: as for training.
        cut: empty the memory at each chunk's start. A sliding window is not touched: the difference is the memory's.
    """
    model = RMAT(config.model)
    batch_size, length = batch["tokens"].shape
    calls = length // config.model.chunk_len if cut else 1

    def read(memory, part):
        memory = memory.forget() if cut else memory
        scores, memory = model.apply(
            {"params": params}, part["tokens"], part["targets"], memory, part["documents"], method=RMAT.score
        )
        return memory, scores

    names = ("tokens", "targets", "documents")
    parts = {name: batch[name].reshape(batch_size, calls, -1).swapaxes(0, 1) for name in names}
    memory, scores = jax.lax.scan(read, memory, parts)
    return memory, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(batch_size, length), scores)
