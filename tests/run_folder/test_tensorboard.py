"""TensorBoard read back with its own reader: every tag, step and value, alive and rebuilt from events alone."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from nesa.figures.style import render
from nesa.run_folder import tables
from nesa.run_folder.tensorboard import TensorBoardWriter, hyper_parameters
from nesa.run_folder.writer import RunWriter

CURRICULUM = """name: trial
description: not a hyper-parameter
seed: 3
input: {size: [8, 8], channels: 1}
penalties: {weight: 0.3, ports: false}
learner: {name: neural_pruning, margin: 0.01, params: {}}
network: {grid: [8, 8, 3], neurons: null}
tasks:
  - {name: edges, source: edges}
  - {name: shapes, source: shapes}
"""


def read(folder, at_least=1):
    files = list((folder / "tensorboard").iterdir())
    assert len(files) == at_least
    view = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0})
    view.Reload()
    return view


def series(view):
    return {tag: [(e.step, round(e.value, 5)) for e in view.Scalars(tag)] for tag in view.Tags()["scalars"]}


def texts(view, tag):
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in view.Tensors(tag)]


def claim(record, task, index, **values):
    row = dict.fromkeys(tables.ACCUMULATION) | {"task": task, "index": index, "source": task, "fallback": False}
    record.event("task_claimed", **row | values)


def picture(colour):
    figure = Figure(figsize=(2, 1), facecolor=colour)
    figure.add_subplot()
    return render(figure)


@pytest.fixture
def run(tmp_path):
    """A closed run of two tasks; the tasks' values differ, so that a swapped step or tag is seen."""
    with RunWriter.create(tmp_path / "trial-1", CURRICULUM, {}) as record:
        record.event("run_started", name="trial", seed=3, tasks=["edges", "shapes"])
        for index, task in enumerate(("edges", "shapes")):
            record.event("task_started", task=task, index=index)
            for epoch in (1, 2):
                record.event(
                    "epoch",
                    task=task,
                    epoch=epoch,
                    step=100 * index + 10 * epoch,
                    loss=1 / epoch + index,
                    train_accuracy=0.5 + 0.1 * epoch,
                    val_accuracy=0.4,
                    penalty_weight=2.0 * epoch,
                    penalty_activity=3.0 * epoch,
                    live_neurons=90 - epoch,
                    live_synapses=900 - epoch,
                )
            claim(
                record,
                task,
                index,
                depth_readout=1 + index,
                depth_mean=1.25 + index,
                depth_graph=2 + index,
                neurons_claimed=20 - 5 * index,
                neurons_free=80 - 15 * index,
                neurons_reused=6 * index,
                reuse_share=0.5 if index else None,
                levels_claimed=[12, 8] if index == 0 else [4, 5, 6],
            )
            record.figure("weights", picture("red" if index else "blue"), task=task)
            for done, earlier in enumerate(("edges", "shapes")[: index + 1]):
                record.event("evaluated", after=task, task=earlier, accuracy=0.9 - 0.2 * done - 0.1 * index)
        record.event("run_finished", acc=0.7, bwt=-0.1, seconds=1.0)
    return record.folder


EXPECTED = {
    "train/edges/loss": [(10, 1.0), (20, 0.5)],
    "train/edges/accuracy": [(10, 0.6), (20, 0.7)],
    "train/edges/penalty_weight": [(10, 2.0), (20, 4.0)],
    "train/edges/penalty_activity": [(10, 3.0), (20, 6.0)],
    "train/edges/live_neurons": [(10, 89.0), (20, 88.0)],
    "train/edges/live_synapses": [(10, 899.0), (20, 898.0)],
    "train/shapes/loss": [(110, 2.0), (120, 1.5)],
    "train/shapes/accuracy": [(110, 0.6), (120, 0.7)],
    "train/shapes/penalty_weight": [(110, 2.0), (120, 4.0)],
    "train/shapes/penalty_activity": [(110, 3.0), (120, 6.0)],
    "train/shapes/live_neurons": [(110, 89.0), (120, 88.0)],
    "train/shapes/live_synapses": [(110, 899.0), (120, 898.0)],
    "accumulation/depth_readout": [(0, 1.0), (1, 2.0)],
    "accumulation/depth_mean": [(0, 1.25), (1, 2.25)],
    "accumulation/depth_graph": [(0, 2.0), (1, 3.0)],
    "accumulation/neurons_claimed": [(0, 20.0), (1, 15.0)],
    "accumulation/neurons_free": [(0, 80.0), (1, 65.0)],
    "accumulation/neurons_reused": [(0, 0.0), (1, 6.0)],
    "accumulation/reuse_share": [(1, 0.5)],
    "accumulation/level_1": [(0, 12.0), (1, 4.0)],
    "accumulation/level_2": [(0, 8.0), (1, 5.0)],
    "accumulation/level_3": [(1, 6.0)],
    "accuracy/edges": [(0, 0.9), (1, 0.8)],
    "accuracy/shapes": [(1, 0.6)],
}


def test_every_tag_has_its_step_and_value_and_there_is_no_other(run):
    assert series(read(run)) == EXPECTED


def test_wall_times_are_those_of_the_events(run):
    with RunWriter.open(run) as record:
        claimed = [event["time"] for event in record.events if event["event"] == "task_claimed"]
    assert [e.wall_time for e in read(run).Scalars("accumulation/depth_mean")] == claimed


def test_figures_are_shown_with_the_task_as_step(run):
    shown = read(run).Images("figures/weights")
    assert [(image.step, image.width, image.height) for image in shown] == [(0, 220, 110), (1, 220, 110)]
    for image, task in zip(shown, ("edges", "shapes"), strict=True):
        assert image.encoded_image_string == (run / "tasks" / task / "weights.png").read_bytes()


def test_an_animation_is_shown_as_it_is(tmp_path):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    gif = io.BytesIO()
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:])
    with RunWriter.create(tmp_path / "x", CURRICULUM, {}) as record:
        record.event("run_started", name="trial", seed=3, tasks=["edges", "shapes"])
        path = record.figure("evolution", {"gif": gif.getvalue()}, "shapes")
    assert path == tmp_path / "x" / "tasks" / "shapes" / "evolution.gif"
    (shown,) = read(tmp_path / "x").Images("figures/evolution")
    assert (shown.step, shown.width, shown.height) == (1, 30, 20)
    assert shown.encoded_image_string == gif.getvalue() == path.read_bytes()


def test_histograms_are_buckets_with_their_edges(tmp_path):
    with RunWriter.create(tmp_path / "x", CURRICULUM, {}) as record:
        record.event("run_started", name="trial", seed=3, tasks=["edges"])
        record.event("histogram", name="new_weights", task="edges", step=0, edges=[-1.0, 0.0, 2.0], counts=[3, 5])
    view = read(tmp_path / "x")
    (shown,) = view.Tensors("histograms/new_weights")
    assert make_ndarray(shown.tensor_proto).tolist() == [[-1, 0, 3], [0, 2, 5]]
    assert view.SummaryMetadata("histograms/new_weights").plugin_data.plugin_name == "histograms"


def test_curriculum_and_tables_are_texts(run):
    view = read(run)
    assert texts(view, "curriculum") == [(0, f"```yaml\n{CURRICULUM}\n```")]
    tables_shown = texts(view, "tables/accuracy")
    assert [step for step, _ in tables_shown] == [0, 1], "one table a task, when its row is complete"
    assert tables_shown[1][1].splitlines()[-1] == "| shapes | 80.0 | 60.0 |"
    accumulation = texts(view, "tables/accumulation")
    assert [step for step, _ in accumulation] == [0, 1]
    assert "| neurons_claimed | 20 | 15 |" in accumulation[1][1]


def test_one_page_shows_depth_neurons_reuse_and_accuracy(run):
    (config,) = read(run).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    (page,) = layout.category
    charts = {chart.title: list(chart.multiline.tag) for chart in page.chart}
    assert list(charts) == ["depth", "neurons", "new neurons by level", "reuse", "accuracy"]
    assert charts["accuracy"] == ["accuracy/.*"]
    assert set(charts["depth"]) == {f"accumulation/depth_{which}" for which in ("readout", "mean", "graph")}
    assert {tag for tags in charts.values() for tag in tags if "*" not in tag} <= EXPECTED.keys()


def test_hyper_parameters_are_in_the_same_event_file_and_make_no_sub_run(run):
    view = read(run)  # it holds one file, and the folder nothing else
    content = view.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["penalties.weight"].number_value == 0.3
    assert start.hparams["tasks"].string_value == "edges > shapes"
    end = view.summary_metadata["_hparams_/session_end_info"].plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(end).status == 1
    assert "_hparams_/experiment" not in view.summary_metadata


def test_two_runs_of_one_curriculum_are_two_rows(tmp_path):
    groups = set()
    for name in ("a", "b"):
        with RunWriter.create(tmp_path / name, CURRICULUM, {}) as record:
            record.event("run_started", name="trial", seed=3, tasks=["edges"])
        content = read(tmp_path / name).summary_metadata["_hparams_/session_start_info"].plugin_data.content
        groups.add(metadata.parse_session_start_info_plugin_data(content).group_name)
    assert len(groups) == 2


def test_hyper_parameters_are_flat():
    assert hyper_parameters(CURRICULUM) == {
        "name": "trial",
        "seed": 3,
        "input.size": "[8, 8]",
        "input.channels": 1,
        "penalties.weight": 0.3,
        "penalties.ports": False,
        "learner.name": "neural_pruning",
        "learner.margin": 0.01,
        "network.grid": "[8, 8, 3]",
        "tasks": "edges > shapes",
    }
    assert hyper_parameters("") == {}
    assert yaml.safe_load(CURRICULUM)["tasks"], "the text itself is not touched"


def contents(view):
    images = {tag: [(e.step, e.encoded_image_string) for e in view.Images(tag)] for tag in view.Tags()["images"]}
    return series(view), images, {tag: texts(view, tag) for tag in ("curriculum", "tables/accuracy")}


def test_the_view_is_rebuilt_from_the_events_alone(run):
    before = contents(read(run))
    shutil.rmtree(run / "tensorboard")
    with RunWriter.open(run) as record:
        record.rewind(len(record.events))
    assert contents(read(run)) == before


def test_rewinding_takes_back_what_the_view_showed(run):
    with RunWriter.open(run) as record:
        first_claim = next(n for n, event in enumerate(record.events, 1) if event["event"] == "task_claimed")
        record.rewind(first_claim)
        claimed = series(read(run))
        record.event("evaluated", after="edges", task="edges", accuracy=0.33)
    after = series(read(run))
    assert claimed.keys() == {tag for tag, points in EXPECTED.items() if "shapes" not in tag and points[0][0] != 1} - {
        "accuracy/edges"
    }
    assert claimed["accumulation/depth_readout"] == [(0, 1.0)]
    assert after == claimed | {"accuracy/edges": [(0, 0.33)]}


def test_an_opened_run_is_continued_in_one_event_file_without_repeats(run):
    with RunWriter.open(run) as record:
        record.event("epoch", task="shapes", epoch=3, step=130, loss=1.25)
    assert series(read(run)) == EXPECTED | {"train/shapes/loss": [*EXPECTED["train/shapes/loss"], (130, 1.25)]}


def test_a_figure_that_somebody_deleted_is_left_out(run):
    (run / "tasks" / "edges" / "weights.png").unlink()
    with RunWriter.open(run) as record:
        record.rewind(len(record.events))
    assert [image.step for image in read(run).Images("figures/weights")] == [1]


def test_what_is_shown_is_on_the_disk_at_once(tmp_path):
    with RunWriter.create(tmp_path / "x", CURRICULUM, {}) as record:
        record.event("run_started", name="trial", seed=3, tasks=["edges"])
        record.event("epoch", task="edges", epoch=1, step=1, loss=0.5)
        assert series(read(tmp_path / "x")) == {"train/edges/loss": [(1, 0.5)]}


def test_missing_values_are_not_drawn(tmp_path):
    with RunWriter.create(tmp_path / "x", CURRICULUM, {}) as record:
        record.event("run_started", name="trial", seed=3, tasks=["edges"])
        record.event("epoch", task="edges", epoch=1, step=1, loss=float("nan"), live_neurons=3)
        claim(record, "edges", 0)
    assert series(read(tmp_path / "x")) == {"train/edges/live_neurons": [(1, 3.0)]}


def test_other_files_in_the_folder_are_left_alone(run):
    (run / "tensorboard" / "notes.txt").write_text("mine")
    TensorBoardWriter.rebuilt(run, CURRICULUM, []).close()
    assert (run / "tensorboard" / "notes.txt").read_text() == "mine"


def test_the_view_needs_neither_torch_nor_matplotlib(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom nesa.run_folder.tensorboard import TensorBoardWriter\n"
        "event = {'event': 'run_started', 'time': 0.0, 'tasks': ['a']}\n"
        "TensorBoardWriter.rebuilt(Path(sys.argv[1]), 'name: x', [event]).close()\n"
        "print([m for m in ('torch', 'matplotlib', 'tensorflow') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
