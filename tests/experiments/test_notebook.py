from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.experiments.synthetic import write_run

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "notebooks" / "compute_accuracy.ipynb"


@pytest.mark.timeout(600)  # a kernel's start on a busy machine
def test_the_notebook_runs_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run")
    monkeypatch.setenv("HEADRACE_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not [output for output in outputs if output.get("name") == "stderr"]
    (hello,) = [output.text for output in outputs if output.get("name") == "stdout"]
    assert hello == "run: 37 problem rows, 96 candidates\n"


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]
