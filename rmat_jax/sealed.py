"""The one writer and the one reader of tensors in files: safetensors with a seal.

A file is written whole or not at all, and the same arguments give the same bytes. The metadata
`sha256` is the digest of everything else, by which damage is noticed. Files may come from anybody:
kind and header are judged before a tensor is read. Needs neither JAX nor PyTorch.

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

# of the array types that we write, the format's names
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
# looks at metadata and tensors by name, and raises UserError where they are not what is wanted
Judge = Callable[[Mapping[str, str], Mapping[str, Spec]], None]


def write_sealed(
    file: Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes `file`; an older one is replaced.

    Args:
        file: in a folder that exists.
        kind: what the file is, and the version of its format.
        tensors: of the types in CODES.
        metadata: text.

    Raises:
        UserError: it cannot be written there.
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
    """What `write_sealed` wrote: tensors in the order of the file, metadata without the seal.

    Args:
        file: to read.
        remedy: how such a file is made, for the errors.
        judge: sees the header before any tensor is read. It raises UserError; another error is told
            as that of a file that rmat_jax has not written.
        sealed: False also takes a file without a seal, of another program.

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
    """Raises UserError where a file is not what `write_sealed` wrote as this kind."""
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
