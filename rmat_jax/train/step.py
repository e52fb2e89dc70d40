"""One step of training and one of evaluation: pure functions, to be jitted by the caller."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rmat_jax.config import IGNORE, Config
from rmat_jax.model import RMAT
from rmat_jax.modules.state import State, merge_rows, split_rows, where_rows
from rmat_jax.ops.losses import Scores
from rmat_jax.train import averages
from rmat_jax.train.bad_steps import Health, keep_good
from rmat_jax.train.state import TrainState
from rmat_jax.types import Array, PyTree

Batch = dict[str, Array]
# the treatments of a row's memory at a chunk, see `eval_step`
KEEP, FORGET, ASIDE = range(3)


@struct.dataclass
class Sums:
    """The sums of a train step. The host takes means of them."""

    # the sum of the loss over all scored tokens, in nats
    loss: Array
    # the number of tokens whose most likely prediction was right
    correct: Array
    # the number of scored tokens
    scored: Array
    # the norm of the mean gradient, before clipping
    grad_norm: Array
    # the health after the step
    health: Health


class Totals(NamedTuple):
    """Sums over the tokens of some lanes. Those of several groups of lanes can be added up."""

    # the gradients of `loss`
    grads: PyTree
    # the sum of the loss, in nats
    loss: Array
    correct: Array
    scored: Array


def totals(
    config: Config, params: PyTree, carried: State, batch: Batch, key: Array
) -> tuple[Totals, State]:
    """Reads T tokens of each lane, in `config.accumulation` parts.

    Part p has the lanes whose index is p modulo `config.accumulation`.

    Returns:
        The sums, and the new state of the lanes.
    """

    def loss(params, carried, part, key):
        scores, carried = RMAT(config.model).apply(
            {"params": params},
            part["tokens"],
            part["targets"],
            carried,
            part["documents"],
            rngs={"dropout": key} if config.model.dropout else None,
            method=RMAT.score,
        )
        loss = scores.loss_BT.sum()
        scored = (part["targets"] != IGNORE).sum()
        return loss, (carried, loss, scores.correct_BT.sum(), scored)

    def add(grads, inputs):
        part_grads, (carried, *sums) = jax.grad(loss, has_aux=True)(params, *inputs)
        return jax.tree.map(jnp.add, grads, part_grads), (carried, sums)

    parts = config.accumulation
    if parts == 1:
        key = jax.random.split(key, 1)[0]
        grads, (carried, *sums) = jax.grad(loss, has_aux=True)(params, carried, batch, key)
        return Totals(grads, *sums), carried
    batch = {name: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}
    inputs = (split_rows(carried, parts), batch, jax.random.split(key, parts))
    grads, (carried, sums) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), inputs)
    return Totals(grads, *(x.sum() for x in sums)), merge_rows(carried)


def train_step(
    config: Config,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    totals: Callable[..., tuple[Totals, State]] = totals,
) -> tuple[TrainState, Sums]:
    """Reads T tokens of every lane and takes one optimiser step on their mean loss.

    The state of the lanes goes from step to step, but no gradient does. A bad step changes nothing
    but the position in the data and the counts, unless it ends the run.

    Args:
        config: the config of the run.
        optimizer: its optimiser.
        state: the train state before the step.
        batch: tokens, targets and documents, [B, T] each.
        totals: the function `totals`, or one that runs it on each device's lanes.
    """
    key = jax.random.fold_in(state.key, state.step)
    batch = {name: batch[name] for name in ("tokens", "targets", "documents")}
    total, carried = totals(config, state.params, state.carried, batch, key)
    scored = jnp.maximum(total.scored, 1)
    grads = jax.tree.map(lambda grad: grad / scored.astype(grad.dtype), total.grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    norm = optax.tree.norm(grads)
    health = state.health.after(norm, total.loss, config.optim)
    params = optax.apply_updates(state.params, updates)
    ema = averages.move(config.optim, state.ema, params, health.good)
    before = state.params, state.opt_state, state.ema, state.carried
    after = params, opt_state, ema, carried
    if config.optim.bad_step != "stop":
        after = keep_good(before, after, health)
    params, opt_state, ema, carried = after
    state = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        carried=carried,
        health=health,
    )
    return state, Sums(total.loss, total.correct, total.scored, norm, health)


def eval_step(
    config: Config, params: PyTree, carried: State, batch: Batch, *, cut: bool = False
) -> tuple[State, Scores | None]:
    """Scores every token of a batch, with or without the memory of some chunks.

    Args:
        config: the config of the run.
        params: the parameters of the model.
        carried: the state of the lanes before the batch.
        batch: as for training. It may have `forget` [B, N], for each chunk KEEP, FORGET (the memory
            is emptied at its start) or ASIDE (as FORGET, and the chunk leaves no trace in the
            state). Without `targets` nothing is scored.
        cut: FORGET at every chunk. A sliding window is never emptied, so that only the memory makes
            a difference.

    Returns:
        The new state of the lanes, and the scores, [B, T] each; None if there are no targets.
    """
    rows, length = batch["tokens"].shape
    chunk_len = config.model.chunk_len
    if cut:
        batch = batch | {"forget": jnp.full((rows, length // chunk_len), FORGET)}
    by_chunk = "forget" in batch
    calls = length // chunk_len if by_chunk else 1

    def read(carried, part):
        forget_B = part["forget"][:, 0] if by_chunk else jnp.full(rows, KEEP)
        start = where_rows(forget_B != KEEP, carried.forget(), carried) if by_chunk else carried
        targets = [part["targets"]] if "targets" in part else []
        scores, after = RMAT(config.model).apply(
            {"params": params},
            part["tokens"],
            *targets,
            start,
            part["documents"],
            method=RMAT.score if targets else RMAT.read,
        )
        after = where_rows(forget_B == ASIDE, carried, after) if by_chunk else after
        return after, scores if targets else None

    parts = {name: x.reshape(rows, calls, -1).swapaxes(0, 1) for name, x in batch.items()}
    carried, scores = jax.lax.scan(read, carried, parts)
    return carried, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, length), scores)
