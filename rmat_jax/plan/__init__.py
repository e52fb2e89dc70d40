"""Plans a training step for accelerators that you do not have: `plan(config, "v5e:16x16")`.

May import: chips, config, errors, flags, flops, model, modules, ops, train, types, jax,
numpy.
"""

from rmat_jax.plan.plan import Report, plan

__all__ = ["Report", "plan"]
