"""Names, shapes and layouts of the weights outside JAX. Only this module knows how they differ from
those of the Linen tree.

Names are those of PyTorch's state dict, such as `layers.0.query.weight`. Shapes are declared once,
in the Linen modules. From there to here

- the layers' parameters, stacked there along a leading axis L, become tensors of each layer;
- a `kernel` [in, out] becomes a `weight` [out, in], as `torch.nn.Linear` keeps it;
- a LayerNorm's `scale`, the `embedding` and the table `output` are called `weight`.

All else keeps its name and layout. The gates' matrices are laid out as in their equations
(`s @ Wz`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rmat_jax.config import RMATConfig


class Spec(NamedTuple):
    """One tensor."""

    shape: tuple[int, ...]
    # the leaf's path in the Linen tree
    path: tuple[str, ...]
    # index along the leaf's leading axis; None: the leaf has no such axis
    layer: int | None
    # whether the leaf's last two axes are swapped
    transposed: bool


@functools.cache
def layout(config: RMATConfig) -> Mapping[str, Spec]:
    """Describes every tensor of the model by name, layer after layer. Needs JAX."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    from rmat_jax.model import RMAT

    # float64 would ask JAX for 64-bit types, and no shape depends on it
    model = RMAT(dataclasses.replace(config, dtype="float32"))
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    specs = {}
    for path, leaf in flatten_dict(tree["params"]).items():
        stacked, transposed = path[0] == "layers", path[-1] == "kernel"
        shape = leaf.shape[1:] if stacked else leaf.shape
        shape = shape[::-1] if transposed else shape
        for layer in range(config.num_layers) if stacked else [None]:
            specs[_name(path, layer)] = Spec(shape, path, layer, transposed)
    return dict(sorted(specs.items(), key=lambda item: (item[1].path[:1], item[1].layer or 0)))


def _name(path: tuple[str, ...], layer: int | None) -> str:
    renamed = dict.fromkeys(("kernel", "scale", "embedding"), "weight")
    first, *rest = path
    rest = [renamed.get(key, key) for key in rest] or ["weight"]
    return ".".join([first, *([] if layer is None else [str(layer)]), *rest])


def from_jax(config: RMATConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns the Linen tree `params`, or another of its structure such as gradients, into tensors by
    name.
    """
    tensors = {}
    for name, spec in layout(config).items():
        leaf = functools.reduce(lambda tree, key: tree[key], spec.path, params)
        tensor = np.asarray(leaf)[... if spec.layer is None else spec.layer]
        tensors[name] = np.ascontiguousarray(tensor.T if spec.transposed else tensor)
    return tensors


def to_jax(config: RMATConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `from_jax`: nested dicts of numpy arrays, which `RMAT(config).apply` takes as
    they are.
    """
    from flax.traverse_util import unflatten_dict

    leaves: dict[tuple[str, ...], Any] = {}
    for name, spec in layout(config).items():
        tensor = tensors[name].T if spec.transposed else tensors[name]
        if spec.layer is None:
            leaves[spec.path] = tensor
        else:
            leaves.setdefault(spec.path, []).append(tensor)
    stacked = {path: np.stack(x) if isinstance(x, list) else x for path, x in leaves.items()}
    return unflatten_dict(stacked)


def random_weights(config: RMATConfig, seed: int) -> dict[str, np.ndarray]:
    """Draws float64 weights in which nothing is zero, one or equal, so that a missing term shows.

    Products with matrices keep the scale of their input; scales lie around 1, biases around their
    initial value, the rest around 0.
    """
    rng = np.random.default_rng(seed)
    starts = {"weight": 1.0}
    if config.memory:
        starts |= {"bz": config.memory.gate_bias, "memory_bias": config.memory.key_bias}
    tensors = {}
    for name, spec in layout(config).items():
        if len(spec.shape) == 2:
            inputs = spec.shape[0] if ".gate." in name else spec.shape[-1]
            scale, center = inputs**-0.5, 0.0
        else:
            scale, center = 0.3, starts.get(name.rsplit(".", 1)[-1], 0.0)
        tensors[name] = center + scale * rng.normal(size=spec.shape)
    return tensors
