"""Trained weights from wherever they lie: a workdir, a folder or a file of `export`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmat_jax.config import Config, from_saved
from rmat_jax.data.tokenizer import BPETokenizer, ByteTokenizer, Tokenizer, check_vocabulary
from rmat_jax.data.tokenizer import load_tokenizer as load_kept_tokenizer
from rmat_jax.digests import check_finite
from rmat_jax.errors import UserError
from rmat_jax.interop.layout import to_jax
from rmat_jax.interop.weights import read_weights, weights_file
from rmat_jax.types import PyTree

# the small model that the package has, by its name
DEFAULT = "quickstart"


class Trained(NamedTuple):
    """Weights, ready for inference, and what goes with them."""

    source: Path
    config: Config
    # matrices in the type that they were saved in
    params: PyTree
    # optimiser steps that made them
    step: int
    # the identity of the training data; None: not known
    data: str | None
    # of a file: its metadata
    metadata: Mapping[str, str] | None

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that the weights were trained with. Raises UserError."""
        if self.metadata is None:
            return load_kept_tokenizer(self.config, self.source / "tokenizer", self.data)
        return tokenizer_of(weights_file(self.source), self.config, self.metadata)


def load_trained(source: str | Path | None = None) -> Trained:
    """Loads weights.

    Args:
        source: the workdir of a training run, whose newest checkpoint is taken; a folder or a file
            of `export`; None: the small model that the package has, `quickstart`.

    Raises:
        UserError: there are no weights, they are damaged, or they are no numbers.
    """
    source = Path(DEFAULT if source is None else source)
    file = weights_file(source)
    if not file.is_file():
        from rmat_jax.train.checkpoint import restore_params

        params, values, step, meta = restore_params(source / "checkpoints")
        check_finite(params, f"step {step} of {source}")
        config = from_saved(Config, values, f"{source}")
        return Trained(source, config, params, step, meta.get("data"), None)
    config, tensors, metadata = read_weights(file, widen=False)
    if config.model.dtype == "float64" and not jax.config.jax_enable_x64:
        raise UserError(f"{file} is of a model with dtype='float64'; set JAX_ENABLE_X64=1")
    # Vectors are few. As float32 they go into norms, gates and shares as they were trained.
    wide = jnp.dtype(config.model.param_dtype)
    tensors = {
        name: x.astype(wide) if x.ndim < 2 or x.dtype.itemsize > wide.itemsize else x
        for name, x in tensors.items()
    }
    params = jax.tree.map(jnp.asarray, to_jax(config.model, tensors))
    check_finite(params, f"{file}")
    return Trained(source, config, params, int(metadata.get("step", 0)), None, metadata)


def tokenizer_of(file: Path, config: Config, metadata: Mapping[str, str]) -> Tokenizer:
    """The tokenizer that goes with a file of weights.

    Raises:
        UserError: the metadata have none where the config needs one, or it does not fit.
    """
    if config.data.synthetic:
        raise UserError(
            f"{file} is of a model of data.synthetic={config.data.synthetic!r}, which knows no "
            "text; use a model of text"
        )
    text = tokenizer_text(file, config, metadata)
    tokenizer = ByteTokenizer() if text is None else BPETokenizer(text)
    check_vocabulary(config, tokenizer.vocab_size, f"data.tokenizer={config.data.tokenizer!r}")
    return tokenizer


def has_tokenizer(config: Config) -> bool:
    """Whether a run keeps a tokenizer, which goes with its weights."""
    return config.data.tokenizer != "bytes" and not config.data.synthetic


def tokenizer_text(file: Path, config: Config, metadata: Mapping[str, str]) -> str | None:
    """The JSON of the tokenizer that goes with the weights, verified; None if the config needs
    none. Raises UserError.
    """
    if not has_tokenizer(config):
        return None
    if "tokenizer" not in metadata:
        raise UserError(
            f"{file} has no tokenizer in its metadata, and "
            f"data.tokenizer={config.data.tokenizer!r}; save it with metadata "
            "tokenizer=TEXT, TEXT being that of a workdir's tokenizer/tokenizer.json"
        )
    what = f"the tokenizer in the metadata of {file}"
    tokenizer = BPETokenizer.checked(metadata["tokenizer"], what)
    check_vocabulary(config, tokenizer.vocab_size, f"data.tokenizer={config.data.tokenizer!r}")
    return metadata["tokenizer"]
