"""Each notebook runs and draws, on 40 problems of `configs/demo.yaml` as it ran on two CPU cores in November 2026."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
DEMO = Path(__file__).parent / "analysis" / "demo_results"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def outputs_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a notebook shows for the demo, cell by cell."""
    monkeypatch.setenv("HEADRACE_RUN", str(shutil.copytree(DEMO, folder / "demo")))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.timeout(600)  # a kernel's start on a busy machine
@pytest.mark.parametrize(
    ("name", "num_figures", "shown"),
    [
        ("compute_accuracy", 2, ["best_of_n n=16"]),
        ("matched_compute", 1, ["beam_search n=16", "prm@16", "greedy", "maj@1"]),
        ("verifier_diagnostics", 2, ["within problems", "majority, score"]),
        ("coverage_fits", 1, ["exponentiated power law", "log-linear", "fitted up to k"]),
    ],
)
def test_a_notebook_runs_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, num_figures: int, shown: list[str]
) -> None:
    outputs = outputs_of(name, tmp_path, monkeypatch)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == num_figures
    assert not [output for output in outputs if output.get("name") == "stderr"]
    (hello,) = [output.text for output in outputs if output.get("name") == "stdout"]
    assert hello == "demo: 120 problem rows, 1,317 candidates\n"
    tables = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert [words for words in shown if words not in tables] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]
