"""The public face: every name resolves, and the import alone is quick and starts no JAX."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

import rmat_jax
from rmat_jax import errors, flags, infer
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
        # presets are values
        assert (
            name.startswith("__") or (name.isupper() and name != "RMAT") or value.__name__ == name
        )
    with pytest.raises(AttributeError, match="has no attribute 'Rmat'"):
        _ = module.Rmat


def test_the_version_has_one_home():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rmat_jax.__version__"}


def names(requirements):
    return {re.match(r"[\w-]+", line)[0].lower() for line in requirements if line[0] != "#"}


def test_each_package_is_in_an_extra_and_in_the_developers_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = names((ROOT / "requirements.txt").read_text().splitlines())
    used = ("text", "tfds", "parquet", "report", "tensorboard", "serve", "torch", "dev")
    assert listed == names([*project["dependencies"], *(x for name in used for x in extras[name])])
    assert set(errors.EXTRAS.values()) <= extras.keys()
    modules = importlib.metadata.packages_distributions()
    for package, extra in errors.EXTRAS.items():
        found = {name.lower() for name in modules.get(package, ())}
        assert not found or found & names(extras[extra]) or package == "libtpu"


def test_a_missing_extra_is_one_line(capsys):
    def main():
        raise ModuleNotFoundError("No module named 'matplotlib.pyplot'", name="matplotlib.pyplot")

    assert flags.run(main) == 2
    said = "error: matplotlib is not installed; run: pip install 'rmat_jax[report]'\n"
    assert capsys.readouterr().err == said

    def other():
        raise ModuleNotFoundError("No module named 'rmat_jax.typo'", name="rmat_jax.typo")

    # the control: what is nobody's extra is our own fault
    with pytest.raises(ModuleNotFoundError):
        flags.run(other)


def test_a_config_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert flags.load_config("quickstart") == flags.load_config(str(ROOT / "configs/quickstart.py"))
    with pytest.raises(errors.UserError, match="'quikstart' is not there; there is quickstart"):
        flags.load_config("quikstart")
    with pytest.raises(errors.UserError, match="'configs/quickstart.py' is not there"):
        flags.load_config("configs/quickstart.py")
