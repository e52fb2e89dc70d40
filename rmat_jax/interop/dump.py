"""Golden dumps: a case and its results in one safetensors file, so that another machine, version or port can be held to it.

Tensors: `input/NAME`, `weight/NAME`, `expected/QUANTITY/PLACE`, all of the results in float64. Metadata: `format`, `config`
(JSON), `spread` (JSON: how far each result moves by float32 rounding, in the order of the computation), `origin` (what
computed it), `sha256` of all that.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rmat_jax.config import Config, UserError, from_dict, to_dict
from rmat_jax.interop.case import Case, Results
from rmat_jax.interop.compare import Spread

FORMAT = "rmat_jax dump 1"


def write_dump(file: Path, case: Case, expected: Results, spread: Spread, origin: str) -> None:
    """Writes `file`, whole or not at all. Raises UserError where it cannot be written."""
    tensors = {f"input/{name}": np.asarray(x) for name, x in case.arrays().items()}
    tensors |= {f"weight/{name}": np.asarray(x, np.float64) for name, x in case.weights.items()}
    tensors |= {f"expected/{'/'.join(key)}": np.asarray(x, np.float64) for key, x in expected.items()}
    tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(to_dict(case.config)),
        "spread": json.dumps({"/".join(key): value for key, value in spread.items()}),
        "origin": origin,
    }
    scratch = file.with_name(f".{file.name}.part")
    try:
        save_file(tensors, scratch, metadata | {"sha256": _digest(tensors, metadata)})
        scratch.replace(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be written: {error}; choose another file") from error


def read_dump(file: Path) -> tuple[Case, Results, Spread, str]:
    """What `write_dump` wrote: (case, expected, spread, origin).

    Raises:
        UserError: there is no such file, it is no dump of this format, or it is damaged.
    """
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; make a dump with: crosscheck --dump={file}") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}; make the dump anew") from error
    found = metadata.get("format")
    if found != FORMAT:
        raise UserError(
            f"{file} has the format {found!r}, a dump has {FORMAT!r}; give a file that crosscheck --dump wrote"
        )
    if metadata.pop("sha256", "") != _digest(tensors, metadata):
        raise UserError(f"{file} is damaged: its contents are not what was written; copy it again")
    parts: dict[str, dict[str, np.ndarray]] = {"input": {}, "weight": {}, "expected": {}}
    for name, x in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = x
    spread = {tuple(key.split("/", 1)): value for key, value in json.loads(metadata["spread"]).items()}
    case = Case(config=from_dict(Config, json.loads(metadata["config"])), weights=parts["weight"], **parts["input"])
    expected = {key: parts["expected"]["/".join(key)] for key in spread}  # the file sorts its tensors by name
    return case, expected, spread, metadata["origin"]


def _digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes())
    return digest.hexdigest()
