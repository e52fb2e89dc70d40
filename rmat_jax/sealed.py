"""One safetensors file that is written whole or not at all, and that notices damage. Needs neither
JAX nor PyTorch.

May import: errors, files, numpy, safetensors.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rmat_jax.errors import UserError
from rmat_jax.files import replacing


def write_sealed(
    file: Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes `file`; an older one is replaced.

    Args:
        file: in a folder that exists.
        kind: what the file is, and the version of its format.
        tensors: of any types that safetensors and NumPy (with ml_dtypes) know.
        metadata: text.

    Raises:
        UserError: it cannot be written there.
    """
    tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    metadata = {"format": kind, **metadata}
    sealed = metadata | {"sha256": _digest(tensors, metadata)}
    try:
        with replacing(file) as scratch:
            save_file(tensors, scratch, sealed)
    except SafetensorError as error:
        raise UserError(f"{file} cannot be written: {error}; choose another file") from error


def read_sealed(file: Path, kind: str, remedy: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What `write_sealed` wrote: tensors, metadata.

    Args:
        file: to read.
        kind: that was written.
        remedy: how such a file is made, for the errors.

    Raises:
        UserError: there is no such file, it is of another kind, or it is damaged.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist; {remedy}")
    if not file.is_file():
        raise UserError(f"{file} is no file but a folder or a device; {remedy}")
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            found = metadata.get("format")
            if found != kind:
                raise UserError(f"{file} has the format {found!r}, not {kind!r}; {remedy}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} cannot be read as safetensors, or is damaged ({error}); {remedy}"
        ) from error
    if metadata.pop("sha256", "") != _digest(tensors, metadata):
        raise UserError(f"{file} is damaged: its contents are not what was written; copy it again")
    return tensors, metadata


def _digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(
            f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes()
        )
    return digest.hexdigest()
