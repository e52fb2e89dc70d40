"""Writes and reads all tensors in files, as safetensors with a seal.

A file is written whole or not at all, and the same arguments give the same bytes. The seal is the
metadata `sha256`, a digest of everything else, which reveals damage. Files may come from anybody,
so kind and header are judged before a tensor is read. Needs neither JAX nor PyTorch.

May import: errors, files, numpy, safetensors.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rmat_jax.errors import UserError
from rmat_jax.files import check_regular, replacing, well_formed

# array type -> its name in the format, for the types that we write
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "uint32": "U32",
    "uint8": "U8",
    "bool": "BOOL",
}
# the dtype and the shape of a tensor; a type that we do not know has the format's name
Spec = tuple[str, tuple[int, ...]]
# checks metadata and tensors by name, and raises UserError where they are not as expected
Judge = Callable[[Mapping[str, str], Mapping[str, Spec]], None]


def write_sealed(
    file: Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes `file`; an older one is replaced.

    Args:
        file: the file to write, in a folder that exists.
        kind: what the file is, and the version of its format.
        tensors: arrays by name, of the types in CODES.
        metadata: texts by name.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    # sorted, since the library gives them back shuffled
    metadata = {"format": kind, **dict(sorted(metadata.items()))}
    # not by the library, which would shuffle them, too
    header: dict[str, Any] = {
        "__metadata__": metadata | {"sha256": _digest(metadata, tensors.items())}
    }
    end = 0
    # large items first, so that each starts at a multiple of its size
    for name in sorted(tensors, key=lambda name: -tensors[name].itemsize):
        x = tensors[name]
        start, end = end, end + x.nbytes
        header[name] = {
            "dtype": CODES[x.dtype.name],
            "shape": x.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(file) as scratch, scratch.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            if name in tensors:
                opened.write(_bytes(tensors[name]))


def read_sealed(
    file: Path, remedy: str, judge: Judge, sealed: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads what `write_sealed` wrote: tensors in the file's order, metadata without the seal.

    Args:
        file: the file to read.
        remedy: how such a file is made, for the errors.
        judge: checks the header before any tensor is read, and raises UserError. Any other error
            of it means that rmat_jax has not written the file.
        sealed: False also accepts a file without a seal, as other programs write it.

    Raises:
        UserError: there is no such file, it is no safetensors file, `judge` refuses it, or it is
            damaged.
    """
    check_regular(file, remedy)
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            names = opened.offset_keys()
            with well_formed(file, remedy):
                judge(metadata, {name: _spec(opened.get_slice(name)) for name in names})
            tensors = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is no safetensors file, or damaged ({error}); {remedy}") from error
    seal = metadata.pop("sha256", None)
    if (sealed or seal is not None) and seal != _digest(metadata, tensors.items()):
        raise UserError(
            f"{file} is damaged, or was changed: its contents are not those of its sha256; "
            f"copy it again, or {remedy}"
        )
    return tensors, metadata


def check_kind(file: Path, metadata: Mapping[str, str], kind: str, remedy: str) -> None:
    """Raises UserError where `write_sealed` has not written a file as this kind."""
    found = metadata.get("format")
    if found != kind:
        raise UserError(f"{file} has the format {found!r}, not {kind!r}; {remedy}")


def _spec(part: Any) -> Spec:
    names = {code: name for name, code in CODES.items()}
    return names.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape())


def _digest(metadata: Mapping[str, str], tensors: Any) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, x in sorted(tensors):
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        digest.update(_bytes(x))
    return digest.hexdigest()


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)
