"""One step of training and one of evaluation: pure functions, to be jitted by the caller."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rmat_jax.config import IGNORE, Config
from rmat_jax.model import RMAT
from rmat_jax.modules import carry
from rmat_jax.modules.carry import State
from rmat_jax.ops.losses import Scores
from rmat_jax.train.state import TrainState
from rmat_jax.types import Array, PyTree

# tokens, targets, documents: [B, T] each
Batch = dict[str, Array]
# what becomes of a row's memory at a chunk: see `eval_step`
KEEP, FORGET, ASIDE = range(3)


@struct.dataclass
class Sums:
    """What a train step counted. Means are taken on the host."""

    # nats over all scored tokens
    loss: Array
    # tokens whose most likely prediction was right
    correct: Array
    # tokens
    scored: Array
    # of the mean gradient, before clipping
    grad_norm: Array


class Totals(NamedTuple):
    """Sums over the tokens of some lanes; those of other lanes are added to them."""

    # of `loss`
    grads: PyTree
    # nats
    loss: Array
    correct: Array
    scored: Array


def totals(
    config: Config, params: PyTree, memory: State, batch: Batch, key: Array
) -> tuple[Totals, State, tuple[()]]:
    """Reads T tokens of each lane, in `config.accumulation` parts: part p has every lane whose
    index is p modulo that.

    Returns:
        The sums, the lanes' memory, and nothing by row: what `sharding.spread` takes.
    """

    def loss(params, memory, part, key):
        rngs = {"dropout": key} if config.model.dropout or config.model.gate_noise else None
        scores, memory = RMAT(config.model).apply(
            {"params": params},
            part["tokens"],
            part["targets"],
            memory,
            part["documents"],
            rngs=rngs,
            method=RMAT.score,
        )
        loss = scores.loss_BT.sum()
        scored = (part["targets"] != IGNORE).sum()
        return loss, (memory, loss, scores.correct_BT.sum(), scored)

    def add(grads, inputs):
        part_grads, (memory, *sums) = jax.grad(loss, has_aux=True)(params, *inputs)
        return jax.tree.map(jnp.add, grads, part_grads), (memory, sums)

    parts = config.accumulation
    if parts == 1:
        grads, (memory, *sums) = jax.grad(loss, has_aux=True)(
            params, memory, batch, jax.random.split(key, 1)[0]
        )
        return Totals(grads, *sums), memory, ()
    batch = {name: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}
    inputs = (carry.split_rows(memory, parts), batch, jax.random.split(key, parts))
    grads, (memory, sums) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), inputs)
    return Totals(grads, *(x.sum() for x in sums)), carry.merge_rows(memory), ()


def train_step(
    config: Config,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    spread: Callable[[Callable], Callable] = lambda totals: totals,
) -> tuple[TrainState, Sums]:
    """Reads T tokens of every lane and takes one optimiser step on their mean loss.

    The lanes' memory comes from the step before and goes to the next; no gradient crosses steps.

    Args:
        config, optimizer: of the experiment.
        state: before the step.
        batch: [B, T] each.
        spread: makes of `totals` over some lanes one over all, each device computing its own: see
            `sharding.py`.
    """
    key = jax.random.fold_in(state.key, state.step)
    batch = {name: batch[name] for name in ("tokens", "targets", "documents")}
    total, memory, _ = spread(functools.partial(totals, config))(
        state.params, state.memory, batch, key
    )
    grads = jax.tree.map(
        lambda grad: grad / jnp.maximum(total.scored, 1).astype(grad.dtype), total.grads
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        memory=memory,
    )
    return state, Sums(total.loss, total.correct, total.scored, optax.tree.norm(grads))


def eval_step(
    config: Config, params: PyTree, memory: State, batch: Batch, *, cut: bool = False
) -> tuple[tuple[()], State, Scores]:
    """Scores every token of a batch, with the memory of the lanes, or with the memory emptied
    before some chunks.

    Args:
        config: the experiment.
        params: the model's.
        memory: of the lanes, closed; goes from call to call.
        batch: as for training. It may have `forget` [B, N], for each chunk KEEP, FORGET (the memory
            is emptied at its start) or ASIDE (the same, but the next chunk is read as if this one
            had not been there).
        cut: FORGET at every chunk. A sliding window is never touched: the difference is the
            memory's.

    Returns:
        No sums, the lanes' memory, and the scores by row: what `sharding.spread` takes.
    """
    model = RMAT(config.model)
    batch_size, length = batch["tokens"].shape
    by_chunk = cut or "forget" in batch
    calls = length // config.model.chunk_len if by_chunk else 1

    def read(memory, part):
        start = memory.forget() if cut else memory
        if "forget" in part:
            start = _where_rows(part["forget"][:, 0] != KEEP, memory.forget(), memory)
        scores, after = model.apply(
            {"params": params},
            part["tokens"],
            part["targets"],
            start,
            part["documents"],
            method=RMAT.score,
        )
        if "forget" in part:
            after = _where_rows(part["forget"][:, 0] == ASIDE, memory, after)
        return after, scores

    names = (
        "tokens",
        "targets",
        "documents",
        *(["forget"] if "forget" in batch and not cut else []),
    )
    parts = {name: batch[name].reshape(batch_size, calls, -1).swapaxes(0, 1) for name in names}
    memory, scores = jax.lax.scan(read, memory, parts)
    return (), memory, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(batch_size, length), scores)


def _where_rows(mask_B: Array, new: State, old: State) -> State:
    """The rows of `new` where the mask holds, those of `old` elsewhere; stacked layers have L
    before the rows.
    """

    def pick(axis, new, old):
        def choose(x, y):
            return jnp.where(mask_B.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1)), x, y)

        return jax.tree.map(choose, new, old)

    rest = pick(0, new.replace(layers=None), old.replace(layers=None))
    return rest.replace(layers=pick(1, new.layers, old.layers))
