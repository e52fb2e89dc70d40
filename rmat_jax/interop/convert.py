"""From a checkpoint to a file of weights, and back to a run."""

import base64
import functools
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from rmat_jax.config import Config, from_saved, to_saved
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import (
    check_same_tokenizer,
    follow_tokenizer,
    keep_tokenizer,
    load_tokenizer,
    tokenizer_of,
)
from rmat_jax.errors import UserError
from rmat_jax.files import well_formed, write_whole
from rmat_jax.interop.layout import from_jax, to_jax
from rmat_jax.interop.weights import read_weights, write_weights
from rmat_jax.train.checkpoint import Checkpoints, restore_params
from rmat_jax.train.optim import make_optimizer
from rmat_jax.train.state import TrainState, init_state
from rmat_jax.types import PyTree

# a tokenizer in the metadata of a file: key -> name of its file, and whether that is no text
TOKENIZER_KEYS = {
    "tokenizer": ("tokenizer.json", False),
    "tokenizer_config": ("tokenizer_config.json", False),
    "tokenizer_model": ("tokenizer.model", True),
}


def export_weights(
    workdir: Path, file: Path, dtype: str | None = None, step: int | str | None = None
) -> str:
    """Writes the parameters of a checkpoint to `file`, with config, step and tokenizer.

    Args:
        workdir: of a run.
        file: is replaced if it is there; whole or not at all.
        dtype: as `write_weights` takes it; None: the parameters' own.
        step: whose weights; None: the newest good one; "best": the lowest held-out loss.

    Returns:
        What was written, in one line.

    Raises:
        UserError: no checkpoint or no such step, no tokenizer where the config needs one,
            or a file that cannot be written.
    """
    # a checkpoint may hold float64
    with jax.enable_x64(True):
        params, values, step, meta = restore_params(workdir / "checkpoints", step)
    config = from_saved(Config, values, str(workdir))
    tensors = from_jax(config.model, params)
    metadata = {"step": str(step)}
    if _has_tokenizer(config):
        # says what is wrong with it
        tokenizer = load_tokenizer(config, workdir / "tokenizer", meta.get("data"))
        metadata |= to_metadata(tokenizer.files())
    write_weights(file, config, tensors, dtype, **metadata)
    return (
        f"{file}: {_describe(tensors)}, {file.stat().st_size:,} bytes, "
        f"{dtype or config.model.param_dtype}, step {step}"
    )


def import_weights(workdir: Path, file: Path, config: Config | None = None) -> str:
    """Begins a run in `workdir` with the weights of `file`: step 0, a fresh optimiser, empty
    memory.

    Args:
        workdir: without a checkpoint.
        file: a safetensors file.
        config: the experiment's; None: that of the file. `read_weights` says more.

    Returns:
        What was made, in one line.

    Raises:
        UserError: a file that `read_weights` refuses, a tokenizer that is missing or wrong, or a
            workdir in use.
    """
    config = config and follow_tokenizer(config)
    config, tensors, metadata = read_weights(file, config)
    tokenizer = _tokenizer(file, config, metadata)
    if has_checkpoints(workdir):
        raise UserError(
            f"--workdir={workdir} has checkpoints of a run; choose another, where a new one can "
            "begin"
        )
    _write_run(workdir, config, tensors, tokenizer)
    origin = f"step {metadata['step']} there, " if "step" in metadata else ""
    return (
        f"{workdir}: {_describe(tensors)}, {file.stat().st_size:,} bytes read, "
        f"{config.model.param_dtype}, {origin}step 0 here"
    )


def import_run(workdir: Path, other: Path, config: Config) -> str:
    """Begins a run in `workdir` with the weights of another run's newest good checkpoint.

    Args:
        workdir: without a checkpoint.
        other: the workdir of the other run.
        config: the experiment's; it must describe the same model as far as weights go.

    Returns:
        What was made, in one line.

    Raises:
        UserError: the other run has no checkpoint, another tokenizer, or other weights; the first
            that differs is named.
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
    if _has_tokenizer(config):
        tokenizer = load_tokenizer(theirs, other / "tokenizer", meta.get("data"))
        check_same_tokenizer(config, tokenizer, f"{other}")
    tensors = from_jax(theirs.model, params)
    _write_run(workdir, config, tensors, tokenizer)
    return f"{workdir}: {_describe(tensors)}, step {step} of {other}, step 0 here"


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run was begun there."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def _write_run(
    workdir: Path, config: Config, tensors: Mapping[str, np.ndarray], tokenizer: Tokenizer | None
) -> None:
    """Makes a workdir whose run stands at step 0. Raises UserError where it cannot be written."""
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
        # Last, since it is what makes a workdir one of a run. The file does not know what data the
        # run will read.
        with Checkpoints(workdir / "checkpoints", keep=config.log.keep) as checkpoints:
            checkpoints.save(0, state, config, {"seconds": 0.0, "data": None})


@functools.partial(jax.jit, static_argnums=0)
def _begin(config: Config, params: PyTree) -> TrainState:
    return init_state(config, make_optimizer(config), params)


def _has_tokenizer(config: Config) -> bool:
    return config.data.tokenizer != "bytes" and not config.data.synthetic


def to_metadata(files: Mapping[str, bytes]) -> dict[str, str]:
    """The files of a tokenizer as texts; sentencepiece's, which is none, in base64."""
    return {
        key: base64.b64encode(files[name]).decode() if binary else files[name].decode()
        for key, (name, binary) in TOKENIZER_KEYS.items()
        if name in files
    }


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, bytes]:
    return {
        name: base64.b64decode(metadata[key], validate=True) if binary else metadata[key].encode()
        for key, (name, binary) in TOKENIZER_KEYS.items()
        if key in metadata
    }


def _tokenizer(file: Path, config: Config, metadata: Mapping[str, str]) -> Tokenizer | None:
    """The tokenizer that goes with the weights, verified; None if the config needs none."""
    if not _has_tokenizer(config):
        return None
    if not {"tokenizer", "tokenizer_model"} & {*metadata}:
        raise UserError(
            f"{file} has no tokenizer in its metadata, and "
            f"data.tokenizer={config.data.tokenizer!r}; save it with metadata "
            "tokenizer=TEXT, TEXT being that of a workdir's tokenizer/tokenizer.json"
        )
    what = f"the tokenizer in the metadata of {file}"
    with well_formed(what, "export it again"):
        files = _from_metadata(metadata)
    tokenizer = tokenizer_of(config, files, what)
    check_same_tokenizer(config, tokenizer, f"{file}")
    return tokenizer


def _describe(tensors: Mapping[str, np.ndarray]) -> str:
    text = f"{len(tensors)} tensors, {sum(x.size for x in tensors.values()):,} parameters"
    broken = [name for name, x in tensors.items() if not np.isfinite(x).all()]
    return text + (
        f" (of {len(broken)} tensors not all finite, {broken[0]} first)" if broken else ""
    )
