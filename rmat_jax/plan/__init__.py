"""What a training step takes on accelerators that are not there: `plan(config, "v5e:16x16")`.

May import: chips, config, errors, flags, flops, model, modules, ops, train, types, jax.
"""

from rmat_jax.plan.plan import Report, plan

__all__ = ["Report", "plan"]
