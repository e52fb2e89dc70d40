"""The dimension key of the project, and names for arrays.

A suffix on a variable's name gives its shape, one letter an axis: `q_BSHE` is [batch, piece, heads,
head size].

    B  batch rows (lanes, sessions)      M  memory slots a layer         D  model width
    T  tokens of a call                  K  slots written a chunk        H  attention heads
    N  chunks of a call                  R  tokens of a run, C / K       E  head size, D / H
    C  tokens of a chunk                 W  tokens of a local window     F  hidden width of the MLP
    S  tokens of a piece: those of one   V  vocabulary                   J  keys of any kind
       call that fall into one chunk     L  layers                       P  some rows of a batch
    G  chunks of a group, which the layers read at once

A 1 stands for an axis of length 1. Public functions spell shapes out in their docstrings; inside,
the suffix is the documentation.

May import: jax.
"""

from typing import Any

import jax

Array = jax.Array
PyTree = Any
