"""docs/notebooks: every cell runs, in order, on a small run; nothing is stored but the text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_run

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def trained(tmp_path, monkeypatch) -> Path:
    """An empty folder with the run that the notebooks open, as if `nesa run` had just made it."""
    from nesa.experiment.run import run

    monkeypatch.setattr("nesa.experiment.task_figures.draw", lambda *_: None)
    small_run.write_data(tmp_path / "data")
    curriculum = small_run.curriculum(tmp_path, seed=1, tasks=("five",))
    run(curriculum, out=tmp_path / "runs", name="quickstart", data=tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom(path, trained):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)
    assert names["run"].names == ["five"]
    assert (names["logits"] - names["probe"]["logits"]).abs().max() == 0, "the run's own answers"
    assert names["fields"].shape == (names["stored"].rows[0]["neurons_claimed"], 64) and names["figure"].axes


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_stored(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
