"""Turns a checkpoint into a file of weights, and such a file into a run."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rmat_jax.config import Config, from_saved, to_saved
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import (
    check_same_tokenizer,
    follow_tokenizer,
    keep_tokenizer,
    load_tokenizer,
)
from rmat_jax.errors import UserError
from rmat_jax.files import write_whole
from rmat_jax.interop.layout import from_jax, to_jax
from rmat_jax.interop.trained import keeps_tokenizer, to_metadata, tokenizer_in
from rmat_jax.interop.weights import read_weights, weights_file, write_weights
from rmat_jax.train.checkpoint import Checkpoints, restore_params
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import TrainState, init_state
from rmat_jax.types import PyTree


class Exported(NamedTuple):
    """The weights of a checkpoint, ready to be written."""

    config: Config
    # tensors by the names of `layout`
    tensors: dict[str, np.ndarray]
    step: int
    # None for bytes, or where there is no text
    tokenizer: Tokenizer | None

    def write(self, file: Path, dtype: str | None, **metadata: str) -> str:
        """Writes the file of weights, and returns a line about it. Raises UserError."""
        metadata |= {"step": f"{self.step}"}
        metadata |= to_metadata(self.tokenizer.files()) if self.tokenizer else {}
        write_weights(file, self.config, self.tensors, dtype, **metadata)
        return (
            f"{describe(self.tensors)}, {file.stat().st_size:,} bytes, "
            f"{dtype or self.config.model.param_dtype}, step {self.step}"
        )


def read_run(workdir: Path, step: int | str | None = None) -> Exported:
    """Reads the parameters of a run's checkpoint, with its tokenizer.

    Args:
        workdir: the run's folder.
        step: the checkpoint's step; None: the newest good one; "best": the lowest held-out loss.

    Raises:
        UserError: there is no checkpoint or no such step, or no tokenizer where the config needs
            one.
    """
    # a checkpoint may hold float64
    with jax.enable_x64(True):
        params, values, step, meta = restore_params(workdir / "checkpoints", step)
    config, tokenizer = from_saved(Config, values, str(workdir)), None
    if keeps_tokenizer(config):
        tokenizer = load_tokenizer(config, workdir / "tokenizer", meta.get("data"))
    return Exported(config, from_jax(config.model, params), step, tokenizer)


def export_weights(
    workdir: Path, file: Path, dtype: str | None = None, step: int | str | None = None
) -> str:
    """Writes the parameters of a checkpoint to `file`, with config, step and tokenizer.

    Args:
        workdir: the run's folder.
        file: the file, whole or not at all; an older one is replaced.
        dtype: as `write_weights` takes it; None: that of the parameters.
        step: the checkpoint's step; None: the newest good one; "best": the lowest held-out loss.

    Returns:
        A line that says what was written.

    Raises:
        UserError: there is no checkpoint or no such step, no tokenizer where the config needs one,
            or the file cannot be written.
    """
    return f"{file}: {read_run(workdir, step).write(file, dtype)}"


def import_weights(workdir: Path, file: Path, config: Config | None = None) -> str:
    """Begins a run in `workdir` with the weights of `file`, at step 0 with a fresh optimiser and
    an empty memory.

    Args:
        workdir: a folder without a checkpoint.
        file: a safetensors file, or a folder that `export` wrote.
        config: the experiment's config; None: the file's config. `read_weights` says more.

    Returns:
        A line that says what was made.

    Raises:
        UserError: `read_weights` refuses the file, the tokenizer is missing or wrong, or the
            workdir is in use.
    """
    config, file = config and follow_tokenizer(config), weights_file(file)
    config, tensors, metadata = read_weights(file, config)
    tokenizer = tokenizer_in(file, config, metadata)
    if tokenizer is not None:
        check_same_tokenizer(config, tokenizer, f"{file}")
    if has_checkpoints(workdir):
        raise UserError(
            f"--workdir={workdir} has checkpoints of a run; choose another, where a new one can "
            "begin"
        )
    _write_run(workdir, config, tensors, tokenizer)
    origin = f"step {metadata['step']} there, " if "step" in metadata else ""
    return (
        f"{workdir}: {describe(tensors)}, {file.stat().st_size:,} bytes read, "
        f"{config.model.param_dtype}, {origin}step 0 here"
    )


def import_run(workdir: Path, other: Path, config: Config) -> str:
    """Begins a run in `workdir` with the weights of another run's newest good checkpoint.

    Args:
        workdir: a folder without a checkpoint.
        other: the workdir of the other run.
        config: the experiment's config, whose model must have the same weights.

    Returns:
        A line that says what was made.

    Raises:
        UserError: the other run has no checkpoint, another tokenizer, or other weights. The message
            names the first weight that differs.
    """
    # a checkpoint may hold float64
    with jax.enable_x64(True):
        params, values, step, meta = restore_params(other / "checkpoints")
    theirs = from_saved(Config, values, str(other))
    config = follow_tokenizer(config, other / "tokenizer")
    wanted = jax.eval_shape(lambda: init_state(config, make_optimizer(config))).params
    shapes = [
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (wanted, params)
    ]
    for name in sorted(shapes[0] | shapes[1]):
        here, there = (found.get(name, "absent") for found in shapes)
        if here != there:
            raise UserError(
                f"{name} is {here} with this config, {there} in {other}; set model.* as there: "
                f"{other / 'config.json'}"
            )
    if theirs.data.tokenizer != config.data.tokenizer and config.data.tokenizer_kind != "file":
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} is {theirs.data.tokenizer!r} in {other}, "
            "whose weights know its ids alone; set it as there"
        )
    tokenizer = None
    if keeps_tokenizer(config):
        tokenizer = load_tokenizer(theirs, other / "tokenizer", meta.get("data"))
        check_same_tokenizer(config, tokenizer, f"{other}")
    tensors = from_jax(theirs.model, params)
    _write_run(workdir, config, tensors, tokenizer)
    return f"{workdir}: {describe(tensors)}, step {step} of {other}, step 0 here"


def has_checkpoints(workdir: Path) -> bool:
    """Whether a folder holds checkpoints of a run."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def _write_run(
    workdir: Path, config: Config, tensors: Mapping[str, np.ndarray], tokenizer: Tokenizer | None
) -> None:
    """Makes a workdir with a run at step 0. Raises UserError where it cannot be written."""
    float64 = config.model.param_dtype == "float64"
    with jax.enable_x64(float64 or jax.config.jax_enable_x64), np.errstate(over="ignore"):
        params = jax.tree.map(
            lambda x: x.astype(config.model.param_dtype), to_jax(config.model, tensors)
        )
        state = _begin(config, params)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_whole(workdir / "config.json", json.dumps(to_saved(config), indent=1))
            if tokenizer is not None:
                keep_tokenizer(tokenizer.files(), workdir / "tokenizer")
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be written: {error.strerror}; choose another"
            ) from error
        # Last, since a checkpoint makes the folder the workdir of a run. The data that the run will
        # read are not known here.
        with Checkpoints(workdir / "checkpoints", keep=config.log.keep) as checkpoints:
            checkpoints.save(0, state, config, {"seconds": 0.0, "data": None})


@functools.partial(jax.jit, static_argnums=0)
def _begin(config: Config, params: PyTree) -> TrainState:
    return init_state(config, make_optimizer(config), params)


def describe(tensors: Mapping[str, np.ndarray]) -> str:
    """Says how many tensors and parameters there are, and which are not finite."""
    text = f"{len(tensors)} tensors, {sum(x.size for x in tensors.values()):,} parameters"
    broken = [name for name, x in tensors.items() if not np.isfinite(x).all()]
    return text + (
        f" (of {len(broken)} tensors not all finite, {broken[0]} first)" if broken else ""
    )
