"""Loads trained weights from any source, with their model and their tokenizer.

May import: data, infer, interop, model, types.
"""

from pathlib import Path

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.infer.engine import Engine
from rmat_jax.interop.trained import load_trained
from rmat_jax.model import RMAT
from rmat_jax.types import PyTree


def load_run(
    source: str | Path | None = None, step: int | str | None = None
) -> tuple[RMAT, PyTree, Tokenizer]:
    """Loads trained weights, with their model and their tokenizer.

    Args:
        source: the workdir of a training run, or a folder or file that `export` wrote; None: the
            small model `quickstart` that comes with the package.
        step: the step of a run's checkpoint; None: the newest; "best": the one with the lowest
            held-out loss.

    Raises:
        UserError: there are no weights, no such step or no tokenizer, or the weights hold NaN or
            infinity.
    """
    found = load_trained(source, step)
    return RMAT(found.config.model), found.params, found.tokenizer()


def load_engine(
    source: str | Path | None = None,
    rows: int = 8,
    step: int | str | None = None,
    devices: int = 1,
) -> Engine:
    """Makes an engine with trained weights.

    Args:
        source: as `load_run` takes it.
        rows: the number of sessions that are read or written at the same time.
        step: as `load_run` takes it.
        devices: how many devices of this process share the chunks of a long prompt.

    Raises:
        UserError: there are no weights, no such step or no tokenizer, `rows` is below 1, or the
            devices are too few or cannot divide the chunks of this model.
    """
    return load_trained(source, step).engine(rows, devices)
