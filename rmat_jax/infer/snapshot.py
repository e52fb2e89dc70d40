"""Saves one stream's state to a file. With the same weights it goes on bit for bit."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rmat_jax.config import RMATConfig, differences
from rmat_jax.digests import digests, named
from rmat_jax.errors import UserError
from rmat_jax.infer.streams import Streams, begin
from rmat_jax.model import RMAT
from rmat_jax.sealed import Spec, check_kind, read_sealed, write_sealed
from rmat_jax.types import PyTree

# raise the number when older code would misread a new file
KIND = "rmat_jax session 2"
REMEDY = "give a file that a session was saved to, or one that is not there yet"


def fingerprint(params: PyTree) -> str:
    """Identifies weights, whatever the devices they lie on."""
    return hashlib.sha256(json.dumps(digests(params), sort_keys=True).encode()).hexdigest()[:16]


def save_stream(
    file: Path, stream: Streams, config: RMATConfig, weights: str, tokenizer: str, tokens: int
) -> None:
    """Writes one row to a safetensors file, whole or not at all.

    Args:
        file: the file, in a folder that exists; an older one is replaced.
        stream: one row.
        config: the model's config.
        weights: the weights' `fingerprint`.
        tokenizer: the tokenizer's description.
        tokens: the number of tokens read so far.

    Raises:
        UserError: the file cannot be written.
    """
    metadata = {
        "config": json.dumps(config.meaning()),
        "weights": weights,
        "tokenizer": tokenizer,
        "tokens": str(tokens),
    }
    write_sealed(
        Path(file), KIND, {name: np.asarray(x) for name, x in named(stream).items()}, metadata
    )


def load_stream(
    file: Path, config: RMATConfig, weights: str, tokenizer: str
) -> tuple[Streams, int]:
    """Reads what `save_stream` wrote: one row, and the number of tokens read so far.

    Raises:
        UserError: there is no such file, it is damaged or holds no session, or it is of another
            model, tokenizer or weights. The message says which.
    """
    expected = named(jax.eval_shape(lambda: begin(RMAT(config), 1)))

    def judge(metadata: Mapping[str, str], specs: Mapping[str, Spec]) -> None:
        check_kind(file, metadata, KIND, REMEDY)
        saved, here = json.loads(metadata["config"]), json.loads(json.dumps(config.meaning()))
        differ = [f"{key} was {was!r}, is {now!r}" for key, was, now in differences(saved, here)]
        if differ:
            raise UserError(
                f"{file} is a session of another model: {'; '.join(differ)}; use that model, or "
                "another file"
            )
        if metadata["tokenizer"] != tokenizer:
            raise UserError(
                f"{file} is a session with another tokenizer: it was {metadata['tokenizer']}, is "
                f"{tokenizer}; use that model, or another file"
            )
        if metadata["weights"] != weights:
            raise UserError(
                f"{file} is a session of other weights ({metadata['weights']}, these are "
                f"{weights}): the model was trained further, or is another; use the same "
                "checkpoint, or another file"
            )
        wanted = {name: (x.dtype.name, x.shape) for name, x in expected.items()}
        wrong = sorted(name for name in wanted | specs if wanted.get(name) != specs.get(name))
        if wrong:
            raise UserError(
                f"{file} is of another version: {', '.join(wrong[:4])} do not fit; {REMEDY}"
            )
        if not int(metadata["tokens"]) >= 0:
            raise ValueError(f"tokens={metadata['tokens']}")

    tensors, metadata = read_sealed(Path(file), REMEDY, judge)
    leaves = [jnp.asarray(tensors[name]) for name in expected]
    structure = jax.tree.structure(jax.eval_shape(lambda: begin(RMAT(config), 1)))
    return jax.tree.unflatten(structure, leaves), int(metadata["tokens"])
