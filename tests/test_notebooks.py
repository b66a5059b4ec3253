"""Every notebook runs from top to bottom on a finished run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cxr.config import PROJECT


@pytest.mark.parametrize("path", sorted((PROJECT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_on_a_finished_run(path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_RUN", str(finished_run))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any("Effusion" in output.get("data", {}).get("text/plain", "") for output in shown)
