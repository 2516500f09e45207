"""examples/demo.ipynb: its cells run from the first to the last, in Jupyter's client where there is one."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "demo.ipynb"
pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


def variables(tmp_path):
    return {"NOTEBOOK_STEPS": "2", "NOTEBOOK_ROWS": "16", "OUTPUTS_DIR": str(tmp_path / "outputs")}


def check(tmp_path, said):
    run = tmp_path / "outputs" / "notebook-demo"
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert (run / "charts" / "metrics.png").is_file() and (run / "evaluation" / "notebook.json").is_file()
    assert "step   2  reward 0." in said and "difference" in said and "demo" in said


def test_its_cells_run_in_order(tmp_path):
    """Without Jupyter: one program of all code cells; what shows a picture is a stand-in."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "__init__.py").write_text("")
    (tmp_path / "IPython" / "display.py").write_text("def Image(filename):\n    open(filename, 'rb').close()\n")
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    environment = {**os.environ, **variables(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, program], cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    check(tmp_path, done.stdout)


def test_it_runs_in_jupyter(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name, value in variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    check(tmp_path, "".join(output.get("text", "") for output in outputs))
    assert any("image/png" in output.get("data", {}) for output in outputs)
