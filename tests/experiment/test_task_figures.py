"""What a run draws after a task: every figure, the animation, the page that can be turned, and the new weights."""

from __future__ import annotations

import io

import numpy as np
import pytest
import small_run
from PIL import Image

from nesa.experiment.run import run
from nesa.run_folder.reader import load_structure

FIGURES = {"activities", "connectome", "depth", "neurons_by_level", "receptive_fields", "weights"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    data = small_run.write_data(folder / "data")
    return run(small_run.curriculum(folder, tasks=("five",)), out=folder / "runs", name="drawn", data=data)


def test_every_figure_is_there_and_is_told(drawn):
    files = {path.name for path in (drawn / "tasks" / "five").iterdir()}
    wanted = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    assert files == wanted | {"checkpoint.pt", "probe.pt", "structure.npz", "connectome.html", "evolution.gif"}
    told = {event["name"]: event["file"] for event in small_run.events(drawn) if event["event"] == "figure"}
    assert told == {name: f"tasks/five/{name}.png" for name in FIGURES} | {"evolution": "tasks/five/evolution.gif"}


def test_the_histogram_counts_the_weights_that_the_task_added(drawn):
    part = load_structure(drawn, "five")
    (event,) = (event for event in small_run.events(drawn) if event["event"] == "histogram")
    W = part["W"][(part["owner"] == 0) | (part["owner"] == -3)]
    assert sum(event["counts"]) == np.count_nonzero(W) > 0
    middle = event["counts"][25:35], event["edges"][25], event["edges"][35]
    inside = W[(W != 0) & (W >= middle[1]) & (W < middle[2])]
    assert sum(middle[0]) == len(inside)


def test_the_animation_has_a_frame_an_epoch_and_the_settled_network(drawn):
    with Image.open(io.BytesIO((drawn / "tasks" / "five" / "evolution.gif").read_bytes())) as film:
        assert film.n_frames == 3, "two epochs, and the end"


def test_the_page_has_a_layer_for_the_task(drawn):
    page = (drawn / "tasks" / "five" / "connectome.html").read_text()
    part = load_structure(drawn, "five")
    assert 'data-task="0"' in page and f"{np.count_nonzero(part['W']):,} synapses<" in page


def test_without_a_film_a_run_is_the_same_but_for_it(drawn, tmp_path):
    data = small_run.write_data(tmp_path / "data")
    plain = run(small_run.curriculum(tmp_path, tasks=("five",)), out=tmp_path, name="drawn", data=data, animate=False)
    assert not (plain / "tasks" / "five" / "evolution.gif").exists()

    def told(folder):
        return [
            {k: v for k, v in e.items() if k not in ("events", "checkpoint")}  # digests of all events
            for e in small_run.events(folder)
            if e.get("name") != "evolution"
        ]

    assert told(plain) == told(drawn)
