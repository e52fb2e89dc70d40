"""Loads trained weights from a workdir, or from a folder or file that `export` wrote."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmat_jax.config import Config, from_saved
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import load_tokenizer, tokenizer_of
from rmat_jax.digests import check_finite
from rmat_jax.errors import UserError
from rmat_jax.files import well_formed
from rmat_jax.infer.engine import Engine
from rmat_jax.interop.layout import to_jax
from rmat_jax.interop.weights import read_weights, weights_file
from rmat_jax.model import RMAT
from rmat_jax.types import PyTree

# the name of the small model that comes with the package
DEFAULT = "quickstart"
# a tokenizer in the metadata of a file: key -> the name of its file, and whether that is binary
TOKENIZER_KEYS = {
    "tokenizer": ("tokenizer.json", False),
    "tokenizer_config": ("tokenizer_config.json", False),
    "tokenizer_model": ("tokenizer.model", True),
}


class Trained(NamedTuple):
    """Weights ready for inference, with their config and their origin."""

    source: Path
    config: Config
    # matrices have the type that they were saved in
    params: PyTree
    # the number of optimiser steps that made them
    step: int
    # the identity of the training data; None: not known
    data: str | None
    # the metadata of a file; None for a workdir
    metadata: Mapping[str, str] | None

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that the weights were trained with. Raises UserError."""
        if self.metadata is None:
            return load_tokenizer(self.config, self.source / "tokenizer", self.data)
        file = weights_file(self.source)
        if self.config.data.synthetic:
            raise UserError(
                f"{file} is of a model of data.synthetic={self.config.data.synthetic!r}, which "
                "knows no text; use a model of text"
            )
        kept = tokenizer_in(file, self.config, self.metadata)
        return kept or tokenizer_of(self.config, {}, file)

    def engine(self, rows: int = 8, devices: int = 1) -> Engine:
        """Makes an engine with the weights, see `Engine`. Raises UserError."""
        model, tokenizer = RMAT(self.config.model), self.tokenizer()
        return Engine(model, self.params, tokenizer, rows=rows, devices=devices)


def load_trained(source: str | Path | None = None, step: int | str | None = None) -> Trained:
    """Loads weights.

    Args:
        source: the workdir of a training run, or a folder or file that `export` wrote; None: the
            small model `quickstart` that comes with the package.
        step: the step of a run's checkpoint; None: the newest; "best": the one with the lowest
            held-out loss.

    Raises:
        UserError: there are no weights or no such step, or the weights are damaged, or hold NaN or
            infinity.
    """
    source = Path(DEFAULT if source is None else source)
    file = weights_file(source)
    if not file.is_file():
        from rmat_jax.train.checkpoint import restore_params

        params, values, step, meta = restore_params(source / "checkpoints", step)
        check_finite(params, f"step {step} of {source}")
        config = from_saved(Config, values, f"{source}")
        return Trained(source, config, params, step, meta.get("data"), None)
    if step is not None:
        raise UserError(f"--step={step}: {file} holds one step; leave it out, or give a workdir")
    config, tensors, metadata = read_weights(file, widen=False)
    if config.model.dtype == "float64" and not jax.config.jax_enable_x64:
        raise UserError(f"{file} is of a model with dtype='float64'; set JAX_ENABLE_X64=1")
    # Vectors are widened, since they are small: norms, gates and shares were trained in this type.
    wide = jnp.dtype(config.model.param_dtype)
    tensors = {
        name: x.astype(wide) if x.ndim < 2 or x.dtype.itemsize > wide.itemsize else x
        for name, x in tensors.items()
    }
    params = jax.tree.map(jnp.asarray, to_jax(config.model, tensors))
    check_finite(params, f"{file}")
    return Trained(source, config, params, int(metadata.get("step", 0)), None, metadata)


def keeps_tokenizer(config: Config) -> bool:
    """Whether a run keeps a tokenizer, which goes with its weights."""
    return config.data.tokenizer != "bytes" and not config.data.synthetic


def tokenizer_in(file: Path, config: Config, metadata: Mapping[str, str]) -> Tokenizer | None:
    """The tokenizer in a file of weights, checked; None if the config needs none.

    Raises:
        UserError: the metadata have no tokenizer where the config needs one, or it does not fit.
    """
    if not keeps_tokenizer(config):
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
    return tokenizer_of(config, files, what)


def to_metadata(files: Mapping[str, bytes]) -> dict[str, str]:
    """The files of a tokenizer as texts; the binary file of sentencepiece is in base64."""
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
