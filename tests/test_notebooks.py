"""The notebooks run from the first cell to the last. They are kept without their outputs."""

import ast
import json

import jax
import matplotlib
import pytest

from tests.test_public import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(notebook, kind="code"):
    found = json.loads(notebook.read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_code_and_no_outputs(notebook):
    assert len(NOTEBOOKS) == 2 and len(cells(notebook)) > 4
    for cell in cells(notebook):
        ast.parse("".join(cell["source"]))
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    """The cells assert what they claim."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    with jax.numpy_rank_promotion("allow"):
        space = {"__name__": "__main__"}
        for cell in cells(notebook):
            exec("".join(cell["source"]), space)
