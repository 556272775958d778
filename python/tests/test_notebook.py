"""The notebooks run from top to bottom and show what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "examples/notebooks"
CELL_TIMEOUT_S = 120


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def outputs(notebook: Any, kind: str) -> list[Any]:
    data = [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])]
    return [entry[kind] for entry in data if kind in entry]


def executed(name: str) -> Any:
    notebook = read(NOTEBOOKS / name)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    nbclient.NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=resources).execute()
    return notebook


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_the_migration_notebook_runs_and_plots() -> None:
    notebook = executed("migration.ipynb")
    assert any("<svg" in html for html in outputs(notebook, "text/html"))
    assert len(outputs(notebook, "image/png")) == 1


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_the_rollout_notebook_runs_and_plots() -> None:
    notebook = executed("rollout.ipynb")
    assert sum("rolled" in html.lower() for html in outputs(notebook, "text/html")) >= 1
    assert any("canary1" in html for html in outputs(notebook, "text/html"))
    assert len(outputs(notebook, "image/png")) == 2


def test_notebooks_are_kept_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in read(path).cells:
            assert not cell.get("outputs"), f"{path.name}: clear the outputs before a commit"
