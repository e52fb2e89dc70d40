"""The block's MLP, and the projections that all modules share."""

import jax
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.types import Array


def projection(
    config: RMATConfig, features: int, *, residual: bool = False, use_bias: bool = False
) -> nn.Dense:
    """Makes a linear layer whose start keeps the scale of its input. At the end of a residual
    branch it starts smaller by sqrt(2 L).
    """
    scale = 1 / (2 * config.num_layers) if residual else 1.0
    return nn.Dense(
        features,
        use_bias=use_bias,
        kernel_init=nn.initializers.variance_scaling(scale, "fan_in", "normal"),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
    )


def split_heads(config: RMATConfig, x_BJD: Array) -> Array:
    """Splits [B, J, D] into heads, [B, J, H, E]."""
    return x_BJD.reshape(*x_BJD.shape[:2], config.num_heads, config.head_dim)


class MLP(nn.Module):
    """gelu(x W1 + b1) W2 + b2, with the tanh form of gelu."""

    config: RMATConfig

    def setup(self):
        self.inner = projection(self.config, self.config.mlp_width, use_bias=True)
        self.outer = projection(self.config, self.config.width, residual=True, use_bias=True)

    def __call__(self, x_BSD: Array) -> Array:
        return self.outer(jax.nn.gelu(self.inner(x_BSD), approximate=True))
