"""Weights as one safetensors file with config and tokenizer. Needs no PyTorch.

Tensors have the names, shapes and layouts of `layout`. The metadata are text: `format` (or `kind`,
where another library uses `format` for itself), `config` (JSON of the experiment's Config), and
what a writer adds, such as `step` and the files of the tokenizer; `tokenizer` is the text of
tokenizer.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rmat_jax.config import Config, differences, from_saved, to_saved
from rmat_jax.errors import UserError
from rmat_jax.files import FAULTS
from rmat_jax.interop.layout import layout
from rmat_jax.sealed import Spec, read_sealed, write_sealed

# the metadata's `format`; raise the number when older code would misread a new file
KIND = "rmat_jax 1"
# the models that come with the package
SHIPPED = Path(__file__).parent.parent / "shipped"
# the file of weights in a folder of `export`
IN_FOLDER = "model.safetensors"
# the types that tensors may have
DTYPES = ("float64", "float32", "float16", "bfloat16")
# the most wrong tensors that an error names
SHOWN = 4


def write_weights(
    file: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    dtype: str | None = None,
    **metadata: str,
) -> None:
    """Writes `file`, whole or not at all. The same arguments give the same bytes.

    Args:
        file: the file, in a folder that exists; an older one is replaced.
        config: the experiment's config.
        tensors: arrays by the names of `layout`.
        dtype: "float64", "float32" or "bfloat16" (rounded to nearest, ties to even, through
            float32); None keeps each array's type. Values too large for it become infinite.
        metadata: more metadata.

    Raises:
        UserError: the file cannot be written, or the tensors are not the model's.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not one of {', '.join(map(repr, DTYPES))}")
    _verify(file, config, {name: (x.dtype.name, x.shape) for name, x in tensors.items()})
    own = {"config": json.dumps(to_saved(config))}
    encoded = {name: _encode(tensors[name], dtype) for name in layout(config.model)}
    write_sealed(Path(file), KIND, encoded, own | metadata)


def read_weights(
    file: str | Path, config: Config | None = None, *, widen: bool = True
) -> tuple[Config, dict[str, np.ndarray], dict[str, str]]:
    """Reads what `write_weights` or another program wrote: (config, tensors in the order of
    `layout`, metadata).

    Float64 comes back as it is, anything narrower as float32, which is exact. Values that are not
    finite are taken as they are.

    Args:
        file: a safetensors file, or a path that `weights_file` takes.
        config: replaces the file's config, and must agree with it on the model's weights and token
            ids. A file without a config needs it. None: the file's config.
        widen: False leaves each tensor in the file's type.

    Raises:
        UserError: there is no such file, it is damaged, of a newer format or without a config, or
            its tensors are not those of the model.
    """
    found, file = config, weights_file(Path(file))

    def judge(metadata: Mapping[str, str], specs: Mapping[str, Spec]) -> None:
        nonlocal found
        found = _config(file, metadata, config)
        _verify(file, found, specs)

    tensors, metadata = read_sealed(file, "export it again", judge, sealed=False)
    tensors = {name: tensors[name] for name in layout(found.model)}
    return found, {name: _decode(x) if widen else x for name, x in tensors.items()}, metadata


def weights_file(source: Path) -> Path:
    """The file of weights that a path means: the file itself, the one in a folder that `export`
    wrote, or, where no such path exists, the one of this name that comes with the package.
    """
    shipped = SHIPPED / f"{source}.safetensors"
    if not source.exists() and shipped.is_file():
        return shipped
    return source / IN_FOLDER if (source / IN_FOLDER).is_file() else source


def _config(file: Path, metadata: Mapping[str, str], given: Config | None) -> Config:
    found = metadata.get("kind") or metadata.get("format", "")
    if found.partition(" ")[0] != KIND.partition(" ")[0]:
        if given is None:
            raise UserError(
                f"{file} has no config in its metadata; give --config=FILE, or save it with "
                f"metadata={{'format': '{KIND}', 'config': TEXT}}, TEXT being that of a workdir's "
                "config.json"
            )
        return given
    if found != KIND:
        raise UserError(
            f"{file} has format {found!r}, this version of rmat_jax reads {KIND}; update it"
        )
    try:
        saved = from_saved(Config, json.loads(metadata["config"]), str(file))
        layout(saved.model)
    except UserError as error:
        raise UserError(f"the config in the metadata of {file} is not valid: {error}") from error
    except FAULTS as error:
        # no JSON, or values of other types
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
    """The settings that determine the meaning of weights and token ids."""
    return {"model": config.model.meaning(), "data": {"tokenizer": config.data.tokenizer_kind}}


def _verify(file: Path, config: Config, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises a UserError that names some tensors whose (dtype, shape) is not that of the model."""
    expected = layout(config.model)
    wrong = []
    for name, spec in expected.items():
        dtype, shape = found.get(name, ("", ()))
        if name not in found:
            wrong.append(f"{name} {list(spec.shape)} is missing")
        elif shape != spec.shape:
            wrong.append(f"{name} is {list(shape)}, must be {list(spec.shape)}")
        elif dtype not in DTYPES:
            wrong.append(f"{name} is {dtype}, must be one of {', '.join(DTYPES)}")
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


def _encode(x: np.ndarray, dtype: str | None) -> np.ndarray:
    """`x` in `dtype`; None: as it is."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = x.astype(np.float32) if dtype == "bfloat16" else x
        return x if dtype is None else x.astype(np.dtype(getattr(jnp, dtype)))


def _decode(x: np.ndarray) -> np.ndarray:
    return x if x.dtype == np.float64 else x.astype(np.float32)
