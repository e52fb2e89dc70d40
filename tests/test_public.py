"""The public face: every name resolves, and the import alone is quick and starts no JAX."""

import subprocess
import sys
import tomllib

import pytest

import rmat_jax
from rmat_jax import infer
from tests.train.test_resume import ROOT


def python(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_import_starts_no_jax():
    heavy = "{'jax', 'flax', 'numpy'} & set(sys.modules)"
    assert python(f"import sys, rmat_jax; print({heavy} or 'none')") == "none\n"
    # the control
    assert python(f"import sys, rmat_jax; rmat_jax.RMAT; print({heavy} or 'none')") != "none\n"


def test_rules_and_configs_start_no_jax():
    program = "import sys; from rmat_jax import Config, RMATConfig, UserError\n"
    program += "from rmat_jax.infer import Sampling; print('jax' in sys.modules)"
    assert python(program) == "False\n"


@pytest.mark.parametrize("module", [rmat_jax, infer])
def test_every_name_resolves(module):
    for name in module.__all__:
        value = getattr(module, name)
        assert name in dir(module)
        assert name.startswith("__") or value.__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Rmat'"):
        _ = module.Rmat


def test_the_version_has_one_home():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rmat_jax.__version__"}
