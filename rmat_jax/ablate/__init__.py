"""Compares trainings that differ in one thing, and makes a table of them.

`ablate` does it; `variants.py` says what differs.

May import: colours, config, drawing, errors, evals, files, flags, flops, infer, machine, model,
progress, signals, train, jax, numpy, scipy.
"""

from rmat_jax.ablate.ablate import ablate
from rmat_jax.ablate.variants import Variant, named, parse_variant, parse_vary

__all__ = ["Variant", "ablate", "named", "parse_variant", "parse_vary"]
