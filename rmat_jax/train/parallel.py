"""The train step of `step.py` on a mesh, jitted with explicit shardings or mapped by pmap."""

import functools
from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rmat_jax.config import Config
from rmat_jax.errors import UserError
from rmat_jax.model import check_context
from rmat_jax.modules.state import merge_rows, split_rows
from rmat_jax.train import sharding
from rmat_jax.train.state import TrainState, init_state
from rmat_jax.train.step import Batch, Sums, Totals, totals, train_step


def abstract_state(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the shapes, dtypes and shardings of the train state.

    Raises:
        UserError: the mesh does not fit the config.
    """
    named = f"mesh.data={mesh.shape['data']} x mesh.fsdp={mesh.shape['fsdp']}"
    lanes = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch_size % (lanes * config.accumulation):
        raise UserError(
            f"batch_size={config.batch_size} must be a multiple of {named} x "
            f"accumulation={config.accumulation} = "
            f"{lanes * config.accumulation}; change the mesh or, in a new run, batch_size"
        )
    if config.eval_batch_size % lanes:
        raise UserError(
            f"eval_batch_size={config.eval_batch_size} must be a multiple of {named} = {lanes}; "
            "try "
            f"eval_batch_size={-(-config.eval_batch_size // lanes) * lanes}"
        )
    _check_context(config, mesh.shape["context"])
    tensor, heads, vocabulary = (
        mesh.shape["tensor"],
        config.model.num_heads,
        config.model.vocab_size,
    )
    if heads % tensor:
        raise UserError(
            f"mesh.tensor={tensor} must divide model.num_heads={heads}: each device has whole heads"
        )
    if vocabulary % tensor:
        larger = -(-vocabulary // tensor) * tensor
        raise UserError(
            f"mesh.tensor={tensor} must divide model.vocab_size={vocabulary}; try "
            f"model.vocab_size={larger}"
        )
    return sharding.placed(mesh, jax.eval_shape(functools.partial(init_state, config, optimizer)))


def _check_context(config: Config, count: int) -> None:
    """Raises UserError if the time of a lane cannot be divided over so many devices."""
    c, named = config.model, f"mesh.context={count}"
    if count == 1:
        return
    if config.chunks_per_step % count:
        larger = -(-config.chunks_per_step // count) * count
        raise UserError(
            f"{named} must divide chunks_per_step={config.chunks_per_step}: each device has whole "
            f"chunks; use fewer devices along it or, in a new run, chunks_per_step={larger}"
        )
    chunks = config.chunks_per_step // count
    if c.chunks_at_once not in (None, chunks):
        raise UserError(
            f"model.chunks_at_once={c.chunks_at_once} must be chunks_per_step="
            f"{config.chunks_per_step} / {named} = {chunks}, since each device reads all its "
            "chunks at once; leave it out"
        )
    check_context(c, chunks, count, named)


def make_init(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[], TrainState]:
    """Compiles `init_state`, in which each device makes its part."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))
    return jax.jit(functools.partial(init_state, config, optimizer), out_shardings=shardings)


def make_train_step(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """Compiles `train_step`. The result donates the state that it is given.

    Raises:
        UserError: the mesh does not fit the config.
    """
    state = abstract_state(config, optimizer, mesh)
    if config.mesh.parallelism == "pmap":
        return _pmapped(config, optimizer, mesh)
    divided = Totals(sharding.specs(mesh, {"params": state.params})["params"], P(), P(), P())

    def totals_of_all(config, *lanes):
        some = functools.partial(totals, config)
        return sharding.spread(mesh, some, sharding.Summed(divided), sharding.CARRIED)(*lanes)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        functools.partial(train_step, config, optimizer, totals=totals_of_all),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def _pmapped(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> Callable:
    """Maps the step by pmap. Each device runs it on its lanes, with the sums over all devices."""
    if jax.process_count() > 1:
        raise UserError(
            "mesh.parallelism='pmap' is for the devices of one process; use mesh.parallelism=jit"
        )
    devices = mesh.devices.flatten().tolist()

    def totals_of_all(*lanes):
        sums, carried = totals(*lanes)
        return jax.lax.psum(sums, "data"), carried

    by_device = TrainState(**dict.fromkeys(TrainState.__dataclass_fields__) | {"carried": 0})
    mapped = jax.pmap(
        functools.partial(train_step, config, optimizer, totals=totals_of_all),
        "data",
        in_axes=(by_device, 0),
        out_axes=(by_device, None),
        devices=devices,
        donate_argnums=0,
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        batch = {name: x.reshape(len(devices), -1, *x.shape[1:]) for name, x in batch.items()}
        carried = split_rows(state.carried, len(devices), neighbours=True)
        state, sums = mapped(state.replace(carried=carried), batch)
        return state.replace(carried=merge_rows(state.carried, neighbours=True)), sums

    return step
