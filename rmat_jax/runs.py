"""What a training run left in its workdir, ready for use: the model, its weights, its tokenizer.

May import: config, data, digests, files, infer, model, train, types.
"""

import json
from pathlib import Path

from rmat_jax.config import Config, from_saved
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import load_tokenizer
from rmat_jax.digests import check_finite
from rmat_jax.files import FAULTS
from rmat_jax.infer.engine import Engine
from rmat_jax.model import RMAT
from rmat_jax.train.checkpoint import restore_params
from rmat_jax.types import PyTree


def load_run(workdir: str | Path, step: int | str | None = None) -> tuple[RMAT, PyTree, Tokenizer]:
    """Loads the weights of a training run, with its model and its tokenizer.

    Args:
        workdir: the folder that the run was trained in, or that weights were imported into.
        step: whose weights; None: the newest; "best": those with the lowest held-out loss.

    Raises:
        UserError: the workdir has no checkpoint, no such step or no tokenizer, or its weights are
            no numbers.
    """
    params, values, step, meta = restore_params(Path(workdir) / "checkpoints", step)
    check_finite(params, f"step {step} of {workdir}")
    config = from_saved(Config, values, str(workdir))
    tokenizer = load_tokenizer(config, Path(workdir) / "tokenizer", meta["data"])
    return RMAT(config.model), params, tokenizer


def load_engine(
    workdir: str | Path, rows: int = 8, step: int | str | None = None, devices: int = 1
) -> Engine:
    """Makes an engine with the weights of a training run.

    Args:
        workdir: the folder that the run was trained in, or that weights were imported into.
        rows: sessions that are read or written at the same time.
        step: as `load_run` takes it.
        devices: of this process, which divide the chunks of a long prompt.

    Raises:
        UserError: the workdir has no checkpoint, no such step or no tokenizer, `rows` is below 1,
            or the devices are too few or cannot divide the chunks of this model.
    """
    return Engine(*load_run(workdir, step), rows=rows, devices=devices)


def answers_only(workdir: str | Path) -> bool:
    """Tells whether a run was trained on the answers of dialogues, by its config.json."""
    try:
        values = json.loads(Path(workdir, "config.json").read_bytes())
        return from_saved(Config, values, str(workdir)).data.answers_only
    # UserError among them
    except (OSError, *FAULTS):
        return False
