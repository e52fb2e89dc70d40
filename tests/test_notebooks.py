"""The notebooks run from the first cell to the last. They are kept without their outputs."""

import ast
import json
import os
import subprocess
import sys

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
def test_a_notebook_runs(notebook, tmp_path):
    """On one device, in a folder of its own. The cells assert what they claim."""
    program = "\n\n".join("".join(cell["source"]) for cell in cells(notebook))
    (tmp_path / "notebook.py").write_text(program, "utf-8")
    environment = os.environ | {"XLA_FLAGS": "", "MPLBACKEND": "Agg", "PYTHONPATH": f"{ROOT}"}
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
