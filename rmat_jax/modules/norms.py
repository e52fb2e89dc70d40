"""Layer normalisation."""

from flax import linen as nn

from rmat_jax.config import RMATConfig


def layer_norm(config: RMATConfig, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm (arXiv 1607.06450) with scale and bias over the last axis, computed and returned in
    float32.
    """
    # The two-pass variance: E[x^2] - E[x]^2 loses digits, and the laws compare many of them.
    return nn.LayerNorm(
        epsilon=1e-5,
        dtype=config.param_dtype,
        param_dtype=config.param_dtype,
        use_fast_variance=False,
        name=name,
    )
