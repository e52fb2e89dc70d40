"""Golden dumps: a case and its results in one safetensors file, with which another machine, version
or port can be compared.

Tensors: `input/NAME`, `weight/NAME`, `expected/QUANTITY/PLACE`, all results in float64.
Metadata: `format`, `config` (JSON), `spread` (JSON: how far each result moves by float32 rounding,
in the order of the computation), `origin` (what computed it), `sha256` of all that.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rmat_jax.config import Config, from_saved, to_saved
from rmat_jax.files import well_formed
from rmat_jax.interop.case import Case, Results
from rmat_jax.interop.compare import QUANTITIES, Spread
from rmat_jax.sealed import Spec, check_kind, read_sealed, write_sealed

FORMAT = "rmat_jax dump 2"


def write_dump(file: Path, case: Case, expected: Results, spread: Spread, origin: str) -> None:
    """Writes `file`, whole or not at all. Raises UserError where it cannot be written."""
    tensors = {f"input/{name}": np.asarray(x) for name, x in case.arrays().items()}
    tensors |= {f"weight/{name}": np.asarray(x, np.float64) for name, x in case.weights.items()}
    tensors |= {
        f"expected/{'/'.join(key)}": np.asarray(x, np.float64) for key, x in expected.items()
    }
    metadata = {
        "config": json.dumps(to_saved(case.config)),
        "spread": json.dumps({"/".join(key): value for key, value in spread.items()}),
        "origin": origin,
    }
    write_sealed(file, FORMAT, tensors, metadata)


def read_dump(file: Path) -> tuple[Case, Results, Spread, str]:
    """Reads what `write_dump` wrote: (case, expected, spread, origin).

    Raises:
        UserError: there is no such file, it is no dump of this format, or it is damaged.
    """
    remedy = f"make the dump anew with: crosscheck --dump={file}"
    config = None

    def judge(metadata: Mapping[str, str], specs: Mapping[str, Spec]) -> None:
        nonlocal config
        check_kind(file, metadata, FORMAT, remedy)
        config = from_saved(Config, json.loads(metadata["config"]), str(file))

    tensors, metadata = read_sealed(file, remedy, judge)
    with well_formed(file, remedy):
        parts: dict[str, dict[str, np.ndarray]] = {"input": {}, "weight": {}, "expected": {}}
        for name, x in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = x
        spread = {
            tuple(key.split("/", 1)): float(value)
            for key, value in json.loads(metadata["spread"]).items()
        }
        case = Case(config=config, weights=parts["weight"], **parts["input"])
        case.check()
        # in the order of the computation, since the file sorts its tensors by size
        expected = {key: parts["expected"]["/".join(key)] for key in spread}
        if unknown := {quantity for quantity, _ in spread} - set(QUANTITIES):
            raise ValueError(f"there is no result {', '.join(unknown)}")
        origin = metadata["origin"]
    return case, expected, spread, origin
