"""Ports to be checked: faulty ones, each wrong in one place of one layer, and one that offers
little.
"""

import torch

from rmat_jax.interop.reference import RMAT
from rmat_jax.interop.run_torch import reference


def flipped_sign(config, weights):
    """One weight of layer 1's values has the other sign."""
    weights["layers.1.value.weight"][2, 1] *= -1
    return reference(config, weights)


def transposed_matrix(config, weights):
    """Layer 1's queries are projected by the transposed matrix."""
    return reference(
        config, weights | {"layers.1.query.weight": weights["layers.1.query.weight"].T}
    )


def rope_halves_swapped(config, weights):
    """Layer 1 takes a vector's second half for its first: it rotates backwards."""
    module = reference(config, weights)

    def swap(_, inputs, output):
        halves = output.unflatten(-1, (config.num_heads, 2, config.head_dim // 2))
        return halves.flip(-2).flatten(-3)

    for projection in (module.layers[1].query, module.layers[1].key):
        projection.register_forward_hook(swap)
    return module


def gate_bias_off_by_one(config, weights):
    """Layer 1's update gate starts one higher: only what it writes is wrong."""
    weights["layers.1.memory.gate.bz"] += 1
    return reference(config, weights)


def mask_off_by_one(config, weights):
    """Layer 1's window is one token too short."""
    module = reference(config, weights)

    def shorten(_, inputs):
        x, slots, keys, values, masks, ages = inputs
        key = torch.arange(-keys.shape[1], x.shape[1])
        near = key[-x.shape[1] :, None] - key < config.local.window - 1
        masks = [mask.clone() for mask in masks]
        masks[config.fused.index("local")][:, :, : len(key)] &= near
        return x, slots, keys, values, masks, ages

    module.layers[1].register_forward_pre_hook(shorten)
    return module


class Bare(torch.nn.Module):
    """Offers logits alone, under parameter names of its own and without a state."""

    def __init__(self, model: RMAT):
        super().__init__()
        self.inside = model

    def forward(self, tokens, state, documents):
        assert state is None
        return self.inside(tokens, None, documents)[0], None


def bare(config, weights):
    return Bare(reference(config, weights))


def broken(config, weights):
    raise KeyError("layers.0.q_proj")


def ends(config, weights):
    """Ends the program as if all were well."""
    raise SystemExit(0)


no_function = 3
