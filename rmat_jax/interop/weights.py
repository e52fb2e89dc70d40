"""Weights as one safetensors file that explains itself. Needs no PyTorch.

Tensors have the names, shapes and layouts of `layout`. Metadata, all text: `format`, `config` (JSON
of the experiment's Config), and what a writer adds: `step`, `tokenizer` (the JSON of a byte-pair
tokenizer).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from rmat_jax.config import Config, differences, from_saved, to_saved
from rmat_jax.errors import UserError
from rmat_jax.files import replacing
from rmat_jax.interop.layout import layout

# the metadata's `format`; raise the version when older code would misread the new
NAME, VERSION = "rmat_jax", 1
# of safetensors
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# wrong tensors that an error names
SHOWN = 4


def write_weights(
    file: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    dtype: str | None = None,
    **metadata: str,
) -> None:
    """Writes `file`, whole or not at all: the same arguments give the same bytes.

    Args:
        file: in a folder that exists; an older file is replaced.
        config: the experiment's.
        tensors: by the names of `layout`.
        dtype: "float64", "float32" or "bfloat16" (rounded to nearest, ties to even, through
            float32); None keeps each array's own. What is too large for it becomes infinite.
        metadata: more of it.

    Raises:
        UserError: it cannot be written there, or the tensors are not the model's.
    """
    file = Path(file)
    if dtype is not None and dtype not in CODES:
        raise UserError(f"dtype={dtype!r} is not one of {', '.join(map(repr, CODES))}")
    dtypes = {name: x.dtype.name for name, x in tensors.items()}
    _verify(file, config, {name: (dtypes[name], x.shape) for name, x in tensors.items()})
    encoded = {name: _encode(tensors[name], dtype or dtypes[name]) for name in layout(config.model)}
    # Not by the library, which shuffles the metadata: the same weights would give other bytes each
    # time.
    header: dict[str, Any] = {
        "__metadata__": {
            "format": f"{NAME} {VERSION}",
            "config": json.dumps(to_saved(config)),
            **metadata,
        }
    }
    end = 0
    for name, x in encoded.items():
        start, end = end, end + x.nbytes
        header[name] = {
            "dtype": CODES[dtype or dtypes[name]],
            "shape": x.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(file) as scratch, scratch.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for x in encoded.values():
            opened.write(x.tobytes())


def read_weights(
    file: str | Path, config: Config | None = None
) -> tuple[Config, dict[str, np.ndarray], dict[str, str]]:
    """What `write_weights` wrote, or another program: (config, tensors in the order of `layout`,
    metadata).

    Float64 comes back as it is, anything narrower as float32, which is exact. Values that are not
    finite are taken as they are.

    Args:
        file: a safetensors file.
        config: None takes the file's. One that is given replaces it, or stands in where a file has
            none; it must describe the same model as far as weights and token ids go.

    Raises:
        UserError: there is no such file; it is damaged, of a newer format, or without a config; its
            tensors are not those of the model.
    """
    file = Path(file)
    try:
        data = file.read_bytes()
        parts = dict(deserialize(data))
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; give a safetensors file"
        ) from error
    except SafetensorError as error:
        raise UserError(
            f"{file} is no safetensors file, or damaged ({error}); copy or export it again"
        ) from error
    # sound: the library has read it
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") or {}
    config = _config(file, metadata, config)
    dtypes = {code: name for name, code in CODES.items()}
    found = {
        n: (dtypes.get(part["dtype"], part["dtype"]), tuple(part["shape"]))
        for n, part in parts.items()
    }
    _verify(file, config, found)
    return config, {name: _decode(**parts[name]) for name in layout(config.model)}, metadata


def _config(file: Path, metadata: Mapping[str, str], given: Config | None) -> Config:
    name, _, version = metadata.get("format", "").partition(" ")
    if name != NAME:
        if given is None:
            raise UserError(
                f"{file} has no config in its metadata; give --config=FILE, or save it with "
                f"metadata={{'format': "
                f"'{NAME} {VERSION}', 'config': TEXT}}, TEXT being that of a workdir's config.json"
            )
        return given
    if version != str(VERSION):
        raise UserError(
            f"{file} has format {metadata['format']!r}, this version of rmat_jax reads {NAME} "
            f"{VERSION}; update it"
        )
    try:
        saved = from_saved(Config, json.loads(metadata["config"]), str(file))
        layout(saved.model)
    except UserError as error:
        raise UserError(f"the config in the metadata of {file} is not valid: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        # no JSON, or of other types
        raise UserError(
            f"the config in the metadata of {file} cannot be read ({type(error).__name__}: "
            f"{error}); it must be the "
            "text of a workdir's config.json"
        ) from error
    if given is None:
        return saved
    differ = [
        f"{key} is {was!r} there, {now!r} in --config"
        for key, was, now in differences(_meaning(saved), _meaning(given), ("model.dtype",))
    ]
    if differ:
        raise UserError(
            f"{file} holds another model: {'; '.join(differ)}; change --config, or leave it out"
        )
    return given


def _meaning(config: Config) -> dict[str, Any]:
    """The settings on which it depends what weights and token ids mean."""
    return {"model": config.model.meaning(), "data": {"tokenizer": config.data.tokenizer}}


def _verify(file: Path, config: Config, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises a UserError that names each tensor, up to a few, whose (dtype, shape) is not that of
    the model.
    """
    expected = layout(config.model)
    wrong = []
    for name, spec in expected.items():
        dtype, shape = found.get(name, ("", ()))
        if name not in found:
            wrong.append(f"{name} {list(spec.shape)} is missing")
        elif shape != spec.shape:
            wrong.append(f"{name} is {list(shape)}, must be {list(spec.shape)}")
        elif dtype not in CODES:
            wrong.append(f"{name} is {dtype}, must be one of {', '.join(CODES)}")
    wrong += [
        f"{name} {list(shape)} is no tensor of it"
        for name, (_, shape) in found.items()
        if name not in expected
    ]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"{file} does not fit the model of its config: {'; '.join(wrong[:SHOWN])}{more}; "
            "rmat_jax/interop/layout.py "
            "lists names and shapes"
        )


def _encode(x: np.ndarray, dtype: str) -> np.ndarray:
    """`x` in `dtype`; bfloat16 as its bits, since NumPy does not know it."""
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return x.astype(f"<f{np.dtype(dtype).itemsize}")
        bits = x.astype("<f4").view("<u4")
    # half a unit; below it on a tie with an even last bit
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    return np.where(np.isnan(x), 0x7FC0, rounded >> 16).astype("<u2")


def _decode(dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    x = np.frombuffer(data, f"<f{int(dtype[1:]) // 8}").reshape(shape)
    return x.astype(np.float32) if dtype == "F16" else x
