"""Names, shapes and layouts of the weights outside JAX. The one place that knows how they differ
from the Linen tree's.

A name is that of PyTorch's state dict, such as `layers.0.query.weight`. Three things differ from
the tree of `RMAT`:

- the tree stacks the layers' parameters along a leading axis L; here each layer has its own
tensors;
- a `kernel` [in, out] of the tree is a `weight` [out, in] here, as `torch.nn.Linear` keeps it;
- a LayerNorm's `scale` and the `embedding` are called `weight`.

Fusion weights, pool queries and the gate's matrices keep name and layout: they stand in the
equations as they stand here (`s @ Wz`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rmat_jax.config import RMATConfig


class Spec(NamedTuple):
    """One tensor."""

    shape: tuple[int, ...]
    # in the Linen tree
    path: tuple[str, ...]
    # index along the leaf's leading axis; None: the leaf has no such axis
    layer: int | None
    # whether the leaf's last two axes are swapped
    transposed: bool


def layout(config: RMATConfig) -> dict[str, Spec]:
    """Every tensor of the model by name, in the order in which the model uses them."""
    c = config
    tensors = {"embed.weight": Spec((c.vocab_size, c.width), ("embed", "embedding"), None, False)}
    if c.token_shift:
        for name, (shape, path, transposed) in _linear("previous", c.width, c.width).items():
            tensors[name] = Spec(shape, path, None, transposed)
    for index in range(c.num_layers):
        for name, (shape, path, transposed) in _layer(c).items():
            tensors[f"layers.{index}.{name}"] = Spec(shape, ("layers", *path), index, transposed)
    for name, (shape, path, transposed) in _norm("final_norm", c.width).items():
        tensors[name] = Spec(shape, path, None, transposed)
    if not c.tie_embeddings:
        tensors["output.weight"] = Spec((c.vocab_size, c.width), ("output",), None, False)
    return tensors


def _layer(c: RMATConfig) -> dict[str, tuple]:
    tensors = {
        **_norm("attention_norm", c.width),
        **_linear("query", c.width, c.width),
        **_linear("key", c.width, c.width),
        **_linear("value", c.width, c.width),
        **_plain("fusion", len(c.fused), *([c.num_heads] if c.fusion == "head" else [])),
        **_linear("output", c.width, c.width),
        **_norm("mlp_norm", c.width),
        **_linear("mlp.inner", c.width, c.hidden),
        **_plain("mlp.inner.bias", c.hidden),
        **_linear("mlp.outer", c.hidden, c.width),
        **_plain("mlp.outer.bias", c.width),
    }
    if c.has_memory:
        if c.fusion == "joint":
            tensors |= _plain("memory_bias", c.num_heads)
        if c.memory_source == "output":
            tensors |= _norm("memory.read_norm", c.width)
            tensors |= _linear("memory.key", c.width, c.width) | _linear(
                "memory.value", c.width, c.width
            )
            tensors |= _norm("memory.write_norm", c.width)
        if c.memory_pool == "attention":
            tensors |= _plain("memory.pool_queries", c.writes, c.width)
        if c.gate != "none":
            tensors |= _gate(c)
    return tensors


def _gate(c: RMATConfig) -> dict[str, tuple]:
    wz, uz, size = ("wz", "uz", 1) if c.gate_scope == "slot" else ("Wz", "Uz", c.width)
    shapes = {wz: (c.width, size), uz: (c.width, size)}
    if c.gate_form == "gru":
        shapes |= dict.fromkeys(("Wr", "Ur", "Wc", "Uc"), (c.width, c.width))
    shapes["bz"] = (size,)
    if c.gate_form == "gru":
        shapes["br"] = (c.width,)
    return {
        name: spec
        for last in shapes
        for name, spec in _plain(f"memory.gate.{last}", *shapes[last]).items()
    }


def _plain(name: str, *shape: int) -> dict[str, tuple]:
    return {name: (shape, tuple(name.split(".")), False)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple]:
    return {f"{name}.weight": ((outputs, inputs), (*name.split("."), "kernel"), True)}


def _norm(name: str, width: int) -> dict[str, tuple]:
    path = tuple(name.split("."))
    return {
        f"{name}.weight": ((width,), (*path, "scale"), False),
        f"{name}.bias": ((width,), (*path, "bias"), False),
    }


def from_jax(config: RMATConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The Linen tree `params` as tensors by name. Takes any tree of its structure: gradients, for
    example.
    """
    tensors = {}
    for name, spec in layout(config).items():
        leaf: Any = params
        for key in spec.path:
            leaf = leaf[key]
        tensor = np.asarray(leaf)[... if spec.layer is None else spec.layer]
        tensors[name] = np.ascontiguousarray(tensor.T if spec.transposed else tensor)
    return tensors


def to_jax(config: RMATConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `from_jax`: nested dicts of numpy arrays, which `RMAT(config).apply` takes as
    they are.
    """
    parts: dict[tuple[str, ...], list[np.ndarray]] = {}
    for name, spec in layout(config).items():
        parts.setdefault(spec.path, []).append(
            tensors[name].T if spec.transposed else tensors[name]
        )
    params: dict[str, Any] = {}
    for path, arrays in parts.items():
        *parents, last = path
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = np.stack(arrays) if path[0] == "layers" else arrays[0]
    return params


def random_weights(config: RMATConfig, seed: int) -> dict[str, np.ndarray]:
    """Float64 weights in which nothing is zero, one or equal, so that a term that is left out
    shows.

    Matrices keep the scale of what they multiply; scales lie around 1, biases around their start,
    the rest around 0.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, spec in layout(config).items():
        last = name.rsplit(".", 1)[-1]
        if len(spec.shape) == 2:
            inputs = spec.shape[0] if ".gate." in name else spec.shape[-1]
            scale, center = inputs**-0.5, 0.0
        else:
            starts = {"weight": 1.0, "bz": config.gate_bias, "memory_bias": config.memory_bias}
            scale, center = 0.3, starts.get(last, 0.0)
        tensors[name] = center + scale * rng.normal(size=spec.shape)
    return tensors
