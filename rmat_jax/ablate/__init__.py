"""The room of comparisons: many trainings that differ in one thing, and the table that comes of
them.

`ablate` is the door; `variants.py` says what differs. May import everything below the commands;
imported by them alone.
"""

from rmat_jax.ablate.ablate import ablate
from rmat_jax.ablate.variants import Variant, named, parse_variant, parse_vary

__all__ = ["Variant", "ablate", "named", "parse_variant", "parse_vary"]
