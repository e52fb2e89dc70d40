"""Layer normalisation."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rmat_jax.config import RMATConfig
from rmat_jax.types import Array

EPSILON = 1e-5


def layer_norm(config: RMATConfig, name: str | None = None) -> "LayerNorm":
    """Makes a `LayerNorm` in the dtype of the model's parameters."""
    return LayerNorm(config.param_dtype, name=name)


class LayerNorm(nn.Module):
    """LayerNorm (arXiv 1607.06450) with scale and bias over the last axis, computed and returned in
    float32 (or float64, if the parameters are).
    """

    dtype: str

    @nn.compact
    def __call__(self, x_BSD: Array) -> Array:
        dtype, width = jnp.dtype(self.dtype), x_BSD.shape[-1:]
        scale_D = self.param("scale", nn.initializers.ones, width, dtype)
        bias_D = self.param("bias", nn.initializers.zeros, width, dtype)
        return _normalise(x_BSD.astype(dtype), scale_D, bias_D)


@jax.custom_vjp
def _normalise(x_BSD: Array, scale_D: Array, bias_D: Array) -> Array:
    lead = (1,) * (x_BSD.ndim - 1)
    return _standard(x_BSD)[0] * scale_D.reshape(*lead, -1) + bias_D.reshape(*lead, -1)


def _standard(x_BSD: Array) -> tuple[Array, Array]:
    """Returns x with mean 0 and variance 1, and the reciprocal of its standard deviation.

    The variance takes two passes, since E[x^2] - E[x]^2 loses digits that the tests compare.
    """
    x_BSD = x_BSD - x_BSD.mean(-1, keepdims=True)
    by_BS1 = jax.lax.rsqrt((x_BSD**2).mean(-1, keepdims=True) + EPSILON)
    return x_BSD * by_BS1, by_BS1


def _backward(kept, d_y_BSD):
    x_BSD, scale_D = kept
    x_BSD, by_BS1 = _standard(x_BSD)
    d_x_BSD = d_y_BSD * scale_D.reshape((1,) * (x_BSD.ndim - 1) + (-1,))
    along_BS1 = (d_x_BSD * x_BSD).mean(-1, keepdims=True)
    d_x_BSD -= d_x_BSD.mean(-1, keepdims=True) + x_BSD * along_BS1
    return d_x_BSD * by_BS1, _sum_of_rows(d_y_BSD * x_BSD), _sum_of_rows(d_y_BSD)


def _sum_of_rows(x_BSD: Array) -> Array:
    """Sums over the rows by a matrix product, since XLA's sums over rows are far slower on CPUs."""
    x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
    return jnp.matmul(jnp.ones((1, len(x_TD)), x_TD.dtype), x_TD, precision="highest")[0]


_normalise.defvjp(lambda x, scale, bias: (_normalise(x, scale, bias), (x, scale)), _backward)
