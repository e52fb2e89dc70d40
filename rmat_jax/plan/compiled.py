"""Compiles the train step of an experiment for devices that need not be there, and reads memory and
exchanged bytes off the compiled program.
"""

import dataclasses
import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmat_jax import flops
from rmat_jax.config import Config
from rmat_jax.errors import UserError, install
from rmat_jax.ops import fused
from rmat_jax.plan import collectives, cycles
from rmat_jax.plan.topology import Topology
from rmat_jax.train import parallel, sharding
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import TrainState
from rmat_jax.types import PyTree

# variables for libtpu, which otherwise looks for a TPU and complains that there is none
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    # several processes may load it, since nothing here opens a TPU
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes that one device holds, by arithmetic on shapes and shardings."""

    params: int
    optimizer: int
    # the lanes' memory, carried from step to step
    memory: int
    # parameters gathered along fsdp, while a step computes; 0 where fsdp=1
    gathered: int
    # gradients of the device's lanes, whole along fsdp, before they are added up
    grads: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step, for one device of its mesh."""

    # bytes of arguments, results, temporaries and code; above `limit` the program does not fit
    peak: int
    # bytes that the compiler may use; 0: the compiler did not say
    limit: int
    # bytes sent in a step; None where the program does not fit or cannot be read
    sent: collectives.Sent | None
    compile_seconds: float
    # the compiler's estimate of its time; None where it does not fit or cannot be read
    estimate: cycles.Estimate | None = None


def tpu_devices(topology: Topology) -> list[jax.Device]:
    """Makes the devices of a TPU slice to compile for. It needs libtpu, but no TPU.

    Raises:
        UserError: libtpu is missing, or there is no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology} needs the TPU compiler, which is not installed: "
            f"{install('libtpu')} (700 MB, no TPU needed); --topology=gpu:h100:8 needs nothing"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # a chip is one device
    options = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    if topology.count == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=str(topology), **options
        ).devices
    except Exception as error:
        # the compiler raises errors of several classes
        message = " ".join(str(error).split())
        raise UserError(
            f"--topology={topology} is refused by the TPU compiler: {message[:300]}"
        ) from error
    return devices


def make_mesh(
    config: Config, topology: Topology, devices: Sequence[jax.Device] = ()
) -> Mesh | AbstractMesh:
    """Makes the mesh of an experiment on a whole topology. Without devices it is abstract, for
    tracing only.

    Raises:
        UserError: the product of the axes is not the number of chips.
    """
    m, count = config.mesh, topology.count
    if m.parallelism != "jit":
        raise UserError(
            f"mesh.parallelism={m.parallelism!r} is not planned for; use mesh.parallelism=jit"
        )
    sizes = m.sizes(count)
    product = math.prod(sizes.values())
    if product != count:
        raise UserError(
            f"{sharding.axes_named(sizes)} is {product} devices, --topology={topology} has "
            f"{count}; make the product {count}"
        )
    if devices:
        return sharding.make_mesh(m, devices)
    axis_types = (AxisType.Auto,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), sharding.AXES, axis_types=axis_types)


def held(state: TrainState, mesh: Mesh | AbstractMesh) -> Held:
    """Counts what one device holds of an abstract state, and what a step adds, see
    `sharding.spread`.
    """

    def whole(leaf):
        spec = P(*(axis if axis == "tensor" else None for axis in leaf.sharding.spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    grads = tree_bytes(jax.tree.map(whole, state.params))
    return Held(
        params=tree_bytes(state.params),
        optimizer=tree_bytes((state.opt_state, state.ema)),
        memory=tree_bytes(state.carried),
        gathered=grads if mesh.shape["fsdp"] > 1 else 0,
        grads=grads,
    )


def tree_bytes(tree: PyTree) -> int:
    """The bytes of one device's part of all leaves, without the padding that a TPU adds."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def trace(config: Config, mesh: Mesh | AbstractMesh) -> tuple[jax.stages.Traced, int, Held]:
    """Traces the train step, and counts its FLOPs on all devices and the bytes of one device.

    Raises:
        UserError: the mesh does not fit the experiment.
    """
    optimizer = make_optimizer(config)
    state = parallel.abstract_state(config, optimizer, mesh)
    tokens_BT = jax.ShapeDtypeStruct(
        (config.batch_size, config.segment_len), jnp.int32, sharding=sharding.batch_sharding(mesh)
    )
    batch = dict.fromkeys(("tokens", "targets", "documents"), tokens_BT)

    def trace(attention, backend):
        model = dataclasses.replace(config.model, attention=attention)
        changed = dataclasses.replace(config, model=model)
        with fused.compiled_for(backend):
            return parallel.make_train_step(changed, optimizer, mesh).trace(state, batch)

    # the step that a TPU runs, and one without kernels, which shows all its products
    traced, shown = trace(config.model.attention, "tpu"), trace("xla", "cpu")
    return traced, flops.count(shown.jaxpr), held(state, mesh)


def compile_step(traced: jax.stages.Traced, held: Held, mesh: Mesh) -> Program:
    """Compiles the step, which takes minutes. A program that does not fit is no error."""
    start = time.monotonic()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used, limit = parse_exhausted(str(error), held.params + held.optimizer + held.memory)
        if not used:
            raise
        return Program(used, limit, None, time.monotonic() - start)
    seconds = time.monotonic() - start
    m = compiled.memory_analysis()
    # not the sum of the temporaries, which do not all exist at the same time
    peak = m.peak_memory_in_bytes + m.generated_code_size_in_bytes
    text, sent, estimate = compiled.as_text(), None, None
    try:
        sent, estimate = collectives.bytes_sent(text, dict(mesh.shape)), cycles.estimate(text)
    except ValueError as error:
        # a later compiler may write another text
        print(f"warning: exchanged bytes and cycles are not counted: {error}", file=sys.stderr)
    return Program(peak, 0, sent, seconds, estimate)


def parse_exhausted(message: str, arguments: int) -> tuple[int, int]:
    """Reads needed and available bytes off an error of the TPU compiler; zeros for other errors.

    The error says either "Used 20.50G of 15.75G hbm", or the size of the temporaries, to which the
    arguments are added here.
    """
    size = r"([\d.]+)([KMG]?)"
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    for pattern, more in (
        (rf"Used {size} of {size} hbm", 0),
        (rf"temporaries \({size}\) exceeds available HBM \({size}\)", arguments),
    ):
        if found := re.search(pattern, message):
            return int(float(found[1]) * unit[found[2]]) + more, int(
                float(found[3]) * unit[found[4]]
            )
    return 0, 0
