"""The mesh, one table of sharding rules, and their translation into JAX's shardings.

A mesh has four axes. `data` and `fsdp` divide the lanes of the batch, and `context` the time of
each lane. Parameters and optimiser state are copied along `data` and `context` and divided along
`fsdp` and `tensor`.

`spread` runs a function of some lanes on all lanes. Each device gathers the parameters once and
computes its lanes, or its part of their time. The sums are added up once at the end (ZeRO, arXiv
1910.02054). A recurrent model reads its weights anew for every group of chunks. A compiler that
divides the whole program would gather and reduce them inside the scan over groups, which costs N
times the traffic. Along `tensor` the compiler divides the matrix products. Along `context` devices
hand on the state of each lane, see `ops/context.py`.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmat_jax.config import MeshConfig
from rmat_jax.errors import UserError
from rmat_jax.ops.context import CONTEXT
from rmat_jax.types import Array, PyTree

# The last axis communicates most. Neighbours along it are neighbouring devices.
AXES = ("data", "fsdp", CONTEXT, "tensor")
# the axes that divide the rows of the batch
LANES = ("data", "fsdp")

# path components above an array for each parameter: the parameters, their moving average, the
# moments of the optimisers, and schedule_free's `z`
_ROOTS = "(params|ema|mu|nu|v|z)"
# The first pattern that matches the end of a leaf's path decides. A spec names the axes that divide
# each dimension, the leading dimension first. Along `tensor`, matrices that produce heads and
# hidden units are divided by their outputs, and those that consume them by their inputs. So each
# device has whole heads and units.
RULES = (
    # Adafactor's factors, two vectors for a matrix, are small, so all devices have them
    (r"v_(row|col)/.+", P()),
    # [V, D]
    (rf"(embed/embedding|{_ROOTS}/output)", P("tensor", "fsdp")),
    # [D, D]
    (rf"{_ROOTS}/previous/kernel", P("fsdp", "tensor")),
    # [L, D, F]
    (
        r"layers/(query|key|value|memory/key|memory/value|mlp/inner)/kernel",
        P(None, "fsdp", "tensor"),
    ),
    # [L, F, D]
    (r"layers/(output|mlp/outer)/kernel", P(None, "tensor", "fsdp")),
    # [L, D, D]
    (r"layers/memory/gate/[WU][zrc]", P(None, "fsdp", "tensor")),
    # [L, D, 1]
    (r"layers/memory/gate/[wu]z", P(None, "fsdp")),
    # [L, F]
    (r"layers/mlp/inner/bias", P(None, "tensor")),
    (r"(memory_bias|bias|scale|fusion|gate/b[zr])", P()),
    # the state of the lanes, with L before B
    (r"slots_LBMD", P(None, LANES)),
    (r"window_(keys|values)_LBHEW", P(None, LANES, "tensor")),
    (r"(document_B|token_B|ages_BM|window_documents_BW)", P(LANES)),
    # a batch
    (r"(tokens|targets|documents)", P(LANES, CONTEXT)),
    (r"(step|key|count|health/\w+|ns_coeffs|b1|weight_sum|step_count|max_lr)", P()),
)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes the mesh of `config` over all devices, or over `devices`.

    Raises:
        UserError: the axes need more devices than there are, or leave some of them unused.
    """
    devices = jax.devices() if devices is None else list(devices)
    count, sizes = len(devices), config.sizes(len(devices))
    named, product = axes_named(sizes), math.prod(sizes.values())
    if product > count:
        raise UserError(
            f"{named} needs {product} devices, there {'is' if count == 1 else 'are'} {count}; "
            "lower one of them, or start more"
        )
    if product < count and (jax.process_count() > 1 or not config.data):
        raise UserError(f"{named} is {product} of {count} devices; make the product {count}")
    axis_types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(
            tuple(sizes.values()), AXES, axis_types=axis_types, devices=devices[:product]
        )
    except (AssertionError, NotImplementedError) as error:
        # the links between these devices do not fit
        raise UserError(
            f"{named} cannot be laid over these {count} devices; use all of them, in powers of two"
        ) from error


def axes_named(sizes: Mapping[str, int]) -> str:
    """Returns axes as a user types them: `mesh.data=2 x mesh.fsdp=4`."""
    return " x ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())


def specs(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns the PartitionSpec of each leaf of a TrainState, of its parts, or a batch, by `RULES`.

    Raises:
        UserError: no rule matches a leaf, or an axis does not divide its size. It names the leaf.
    """

    def spec(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, found in RULES:
            if re.search(f"(^|/){pattern}$", name):
                # beside its factors Adafactor keeps one zero a layer in place of the matrix
                if "/v/" in name and leaf.ndim < len(found):
                    return P()
                _check_divides(mesh, name, leaf.shape, found)
                return found
        raise UserError(
            f"no rule of rmat_jax/train/sharding.py says where {name} {list(leaf.shape)} lives; "
            "add one to RULES"
        )

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns `specs` as NamedShardings."""
    return _map_specs(lambda spec: NamedSharding(mesh, spec), specs(mesh, tree))


def placed(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns the leaves' shapes and dtypes with their shardings, for `Checkpoints.restore` and
    `jit(...).lower`.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(mesh, tree),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array with a copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, whole_lanes: bool = False) -> NamedSharding:
    """Returns the sharding of [B, T] arrays.

    Args:
        mesh: the devices.
        whole_lanes: do not divide time along `context`.
    """
    return NamedSharding(mesh, P(LANES) if whole_lanes else P(LANES, CONTEXT))


def on_one_device(mesh: Mesh, tree: PyTree) -> PyTree:
    """Copies the whole tree to one device of each process. All processes must call it."""
    if mesh.size == 1:
        return tree
    whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Returns the rows of a global batch that this process must read, those of its devices."""
    lanes = batch_sharding(mesh, whole_lanes=True)
    owned = lanes.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in owned for row in range(batch_size)[rows]})


def global_batch(
    mesh: Mesh,
    batch_size: int,
    rows: Sequence[int],
    batch: Mapping[str, np.ndarray],
    *,
    whole_lanes: bool = False,
) -> dict[str, Array]:
    """Makes the global batch [B, ...] from the rows that each process has read.

    Args:
        mesh: the devices.
        batch_size: B.
        rows: the rows of this process, see `local_rows`.
        batch: the arrays of these rows.
        whole_lanes: see `batch_sharding`.
    """
    sharding = batch_sharding(mesh, whole_lanes=whole_lanes)

    def whole(x):
        def part(index):
            first = rows.index(index[0].start or 0)
            return x[first : first + len(range(batch_size)[index[0]]), *index[1:]]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, part)

    return {name: whole(x) for name, x in batch.items()}


class Summed(NamedTuple):
    """Marks a result of `spread` that is added up over all lanes."""

    # how the sum is divided along `fsdp`; P() leaves a copy on every device
    specs: PyTree


# mark a result of `spread` that is divided like the state of the lanes, or like a batch, [B, T]
CARRIED, ROWS = "carried", "rows"


def spread(
    mesh: Mesh, function: Callable, *results: Summed | str, whole_lanes: bool = False
) -> Callable:
    """Makes a function of some lanes run on all lanes, by `shard_map` over the devices.

    Args:
        mesh: the devices.
        function: `function(params, carried, batch, *same)` of some lanes; `same` is equal for all.
        results: for each result of the function, how the devices' results are combined.
        whole_lanes: do not divide time along `context`, so that its devices compute the same.

    Returns:
        The same function of all lanes.
    """
    divided = LANES if whole_lanes else (*LANES, CONTEXT)
    axes = tuple(axis for axis in divided if mesh.shape[axis] > 1)
    if not axes:
        return function
    # Without `tensor` the compiler has nothing to divide, and all axes are manual. It would fail on
    # an axis of one device (jax 0.10.2).
    manual = set(axes)
    if mesh.shape["tensor"] == 1:
        manual = set(AXES) - ({CONTEXT} if whole_lanes else set())

    def local(*args):
        found = zip(function(*args), results, strict=True)
        return tuple(_add_up(mesh, axes, x, to) if isinstance(to, Summed) else x for x, to in found)

    def whole(params, carried, batch, *same):
        rows = tuple(axis for axis in axes if axis in LANES) or None
        lanes = _map_specs(
            lambda spec: P(*(rows if entry == LANES else None for entry in spec)),
            specs(mesh, carried),
        )
        times = P(rows, CONTEXT) if CONTEXT in axes else P(rows)
        placed = {CARRIED: lanes, ROWS: times}
        out_specs = tuple(
            _only(axes, to.specs) if isinstance(to, Summed) else placed[to] for to in results
        )
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), lanes, times, *(P() for _ in same)),
            out_specs=out_specs,
            axis_names=manual,
            # with the check, gradients of shared values would be added up after every chunk
            check_vma=False,
        )(params, carried, batch, *same)

    return whole


def _add_up(mesh: Mesh, axes: tuple[str, ...], tree: PyTree, to: Summed) -> PyTree:
    """Adds up the parts of all devices along `axes`."""

    def add(spec, x):
        # `fsdp` first, so that the other axes add only the scattered parts
        for axis in sorted(axes, key=lambda axis: axis != "fsdp"):
            if axis in spec:
                x = jax.lax.psum_scatter(x, axis, scatter_dimension=spec.index(axis), tiled=True)
            else:
                x = jax.lax.psum(x, axis)
        return x

    add_all = functools.partial(_map_specs, add, to.specs)
    if mesh.shape["tensor"] > 1:
        # each device adds its part along `tensor`, which the compiler would gather first
        own = _only(("tensor",), to.specs)
        add_all = jax.shard_map(
            add_all, in_specs=(own,), out_specs=own, axis_names={"tensor"}, check_vma=False
        )
    return add_all(tree)


def _only(names: tuple[str, ...], tree: PyTree) -> PyTree:
    """Returns the specs with only these axes."""
    return _map_specs(lambda spec: P(*(x if x in names else None for x in spec)), tree)


def _map_specs(function: Callable, specs: PyTree, *others: PyTree) -> PyTree:
    """Maps over a tree of PartitionSpecs, which JAX would take for tuples."""
    return jax.tree.map(function, specs, *others, is_leaf=lambda x: isinstance(x, P))


def _check_divides(mesh: Mesh, name: str, shape: tuple[int, ...], spec: P) -> None:
    for dimension, (size, axes) in enumerate(zip(shape, spec, strict=False)):
        axes = axes if isinstance(axes, tuple) else (axes,) if axes else ()
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            named = " x ".join(
                f"mesh.{axis}={mesh.shape[axis]}" for axis in axes if mesh.shape[axis] > 1
            )
            raise UserError(
                f"{name} {list(shape)}: {named} must divide dimension {dimension}, which is "
                f"{size}; "
                f"make it a multiple of {parts}, or change the mesh"
            )
