"""Trained weights ready for use, wherever they lie: the model, its weights, its tokenizer.

May import: data, infer, interop, model, types.
"""

from pathlib import Path

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.infer.engine import Engine
from rmat_jax.interop.trained import load_trained
from rmat_jax.model import RMAT
from rmat_jax.types import PyTree


def load_run(source: str | Path | None = None) -> tuple[RMAT, PyTree, Tokenizer]:
    """Loads trained weights, with their model and their tokenizer.

    Args:
        source: the workdir of a training run, whose newest weights are taken; a folder or a file
            of `export`; None: the small model that the package has, `quickstart`.

    Raises:
        UserError: there are no weights or no tokenizer, or the weights are no numbers.
    """
    found = load_trained(source)
    return RMAT(found.config.model), found.params, found.tokenizer()


def load_engine(source: str | Path | None = None, rows: int = 8) -> Engine:
    """Makes an engine with trained weights.

    Args:
        source: as `load_run` takes it.
        rows: sessions that are read or written at the same time.

    Raises:
        UserError: there are no weights or no tokenizer, or `rows` is below 1.
    """
    return Engine(*load_run(source), rows=rows)
