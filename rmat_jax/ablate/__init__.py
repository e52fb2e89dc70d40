"""The room of comparisons: many trainings that differ in one thing, and the table that comes of
them.

`ablate` is the door; `variants.py` says what differs.

May import: colours, config, errors, evals, files, flags, flops, infer, machine, model, progress,
signals, train, jax, numpy, scipy.
"""

from rmat_jax.ablate.ablate import ablate
from rmat_jax.ablate.variants import Variant, named, parse_variant, parse_vary

__all__ = ["Variant", "ablate", "named", "parse_variant", "parse_vary"]
