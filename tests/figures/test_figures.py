"""Test that figures show the right numbers, on fixed scales, in small files."""

from __future__ import annotations

import io
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from PIL import Image

from nesa.analysis.connectome import Synapses
from nesa.figures.connectome import connectome, drawing_positions
from nesa.figures.network import (
    activities,
    level_axis,
    level_order,
    receptive_fields,
    strongest_in_blocks,
    weight_matrix,
)
from nesa.figures.run import accuracy_matrix, depth_over_tasks, neurons_by_level, owner_flow
from nesa.figures.style import INPUT, SIZE, TASKS, page, render, task_colour, task_hatch
from nesa.figures.training import training_curves

ROWS = [
    {"task": task, "index": index, "levels_claimed": levels, "depth_readout": a, "depth_mean": b, "depth_graph": c}
    for index, (task, levels, a, b, c) in enumerate(
        [("edges", [196, 10, 0], 4, 1.5, 2), ("shapes", [141, 100], 5, 2.5, 4), ("cifar10", [55, 4, 7], 5, None, 5)]
    )
]
R = np.array([[0.922, np.nan, np.nan], [0.922, 0.847, np.nan], [0.92, 0.85, 0.408]])
NAMES = ["edges", "shapes", "cifar10"]


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """No figure leaves state in pyplot or changes a setting."""
    matplotlib.get_backend()  # decided on first use, which changes settings
    before = matplotlib.rcParams.copy()
    yield
    assert matplotlib.rcParams == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def network(planes=3, side=8, seed=0):
    """A layered net on a grid: W, positions, levels, owner. Plane 0 is the input, plane z has level z; one port."""
    generator = np.random.default_rng(seed)
    plane = side * side
    S = planes * plane + 2
    positions = np.array([(x, y, z) for z in range(planes) for y in range(side) for x in range(side)], dtype=float)
    positions = np.concatenate([positions, np.full((2, 3), (side / 2, side / 2, planes - 1))])
    levels = np.append(np.repeat(np.arange(planes), plane), [planes, planes])
    owner = np.append(np.repeat(np.array([-2, *range(planes - 1)]), plane), [-3, -3])
    W = np.zeros((S, S), dtype=np.float32)
    for z in range(1, planes):
        block = generator.normal(0, 0.2, (plane, plane)) * (generator.random((plane, plane)) < 0.1)
        W[z * plane : (z + 1) * plane, (z - 1) * plane : z * plane] = block
    W[-2:, (planes - 1) * plane : -2] = 0.1
    return W, positions, levels, owner


def bars(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def sizes(figure):
    return {kind: len(data) for kind, data in render(figure).items()}


# neurons_by_level


def test_bars_hold_the_neurons_of_each_level_and_owner():
    panels = neurons_by_level(ROWS).axes
    assert [axes.get_title() for axes in panels] == ["after edges", "after shapes", "after cifar10"]
    claimed = [[196, 10, 0], [141, 100, 0], [55, 4, 7]]
    for after, axes in enumerate(panels):
        drawn = bars(axes)
        assert len(drawn) == 3 * (after + 1)
        for owner in range(after + 1):
            for level in range(3):
                bar = drawn[3 * owner + level]
                assert bar.get_height() == claimed[owner][level]
                assert bar.get_y() == sum(claimed[earlier][level] for earlier in range(owner))
                assert bar.get_x() + bar.get_width() / 2 == pytest.approx(level + 1)
                assert to_hex(bar.get_facecolor()) == task_colour(owner)


def test_panels_share_their_axes_and_the_limit_is_fixed():
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in neurons_by_level(ROWS).axes}
    assert len(limits) == 1
    assert limits.pop()[1] == pytest.approx((0, 500 * 1.08))  # 392 at level 1 -> 500
    assert neurons_by_level(ROWS, limit=2000).axes[0].get_ylim()[1] == pytest.approx(2160)


def test_many_tasks_wrap_and_the_eleventh_differs_from_the_first():
    rows = [dict(ROWS[0], task=f"t{index}", index=index) for index in range(12)]
    axes = neurons_by_level(rows).axes
    assert len(axes) == 15
    last = bars(axes[11])
    assert last[0].get_facecolor() == last[30].get_facecolor()
    assert last[0].get_hatch() != last[30].get_hatch()


# depth_over_tasks, accuracy_matrix, owner_flow


def test_depth_has_a_line_for_each_measure_and_gaps_where_nothing_was_measured():
    axes = depth_over_tasks(ROWS, iterations=7).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in axes.lines}
    assert list(lines) == ["readout", "mean", "graph"]
    np.testing.assert_array_equal(lines["readout"], [4, 5, 5])
    np.testing.assert_array_equal(lines["mean"], [1.5, 2.5, np.nan])
    np.testing.assert_array_equal(lines["graph"], [2, 4, 5])
    assert axes.get_ylim() == pytest.approx((0, 7.4))
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES


def test_the_accuracy_matrix_is_r_from_0_to_1():
    axes = accuracy_matrix(R, NAMES).axes[0]
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array().filled(-1), np.nan_to_num(R, nan=-1))
    assert image.get_clim() == (0, 1)
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "92.2", (1, 0): "92.2", (1, 1): "84.7", (2, 0): "92.0", (2, 1): "85.0", (2, 2): "40.8"}


def test_the_flow_shows_shares_of_each_row():
    matrix = np.array([[30, 10, 0, 0], [5, 5, 10, 0], [0, 0, 0, 0]], dtype=float)
    drawn = bars(owner_flow(matrix, NAMES).axes[0])
    widths = np.array([bar.get_width() for bar in drawn]).reshape(4, 3).T
    np.testing.assert_allclose(widths, [[75, 25, 0, 0], [25, 25, 50, 0], [0, 0, 0, 0]])
    assert [drawn[3 * k].get_facecolor() for k in range(3)] == [to_rgba(c) for c in (INPUT, *TASKS[:2])]
    assert drawn[7].get_x() == pytest.approx(50)  # shapes on shapes begins behind input and edges


@pytest.mark.parametrize(
    "draw",
    [
        lambda: accuracy_matrix(R, NAMES[:2]),
        lambda: owner_flow(np.zeros((3, 3)), NAMES),
        lambda: receptive_fields(np.zeros((4, 9)), [2, 2]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(draw):
    with pytest.raises(ValueError, match="not \\("):
        draw()


# weight_matrix, activities, receptive_fields


def test_neurons_are_sorted_by_level_and_silent_ones_come_last():
    assert level_order(torch.tensor([2, -1, 0, 1, -3, 0])).tolist() == [2, 5, 3, 0, 1, 4]


def test_pooling_keeps_the_largest_entry_and_its_sign():
    W = np.array([[1.0, -3.0, 0.0, 0.0], [2.0, 0.5, 0.0, -0.1], [0, 0, 0, 0], [0, 4.0, 0, -5.0]])
    starts = np.array([0, 2])
    synapses = Synapses.of(W)
    np.testing.assert_allclose(strongest_in_blocks(synapses, starts, starts), [[-3.0, -0.1], [4.0, -5.0]])
    np.testing.assert_allclose(strongest_in_blocks(synapses, np.arange(4), np.arange(4)), W)


def test_every_level_gets_room_and_no_cell_crosses_a_border():
    x = level_axis(np.repeat([0, 1, 2], [1000, 200, 3]), cells=100)
    assert x.counts == [1000, 200, 3]
    widths = np.diff([0, *x.borders, 1])
    assert widths.min() > 0.05
    assert widths[0] > widths[1] > widths[2]
    assert {0, 1000, 1200} <= set(x.starts.tolist())
    assert (x.starts >= 1200).sum() == 3, "three neurons keep a cell each"
    assert np.all(np.diff(x.edges) > 0)
    assert x.edges[0] == 0
    assert x.edges[-1] == pytest.approx(1)
    assert len(x.edges) == len(x.starts) + 1 < 110


def test_the_weight_matrix_shows_all_neurons_and_magnifies_the_live_ones():
    W, _, levels, _ = network()
    levels = levels.copy()
    levels[70:100] = -1  # of the 64 neurons at level 1
    W[180] = 0
    whole, live = weight_matrix(torch.from_numpy(W), None, torch.from_numpy(levels)).axes[:2]
    order = level_order(levels)
    np.testing.assert_array_equal(whole.images[0].get_array(), W[np.ix_(order, order)])
    assert whole.images[0].get_clim() == (-0.25, 0.25)
    (mesh,) = (artist for artist in live.collections if isinstance(artist, QuadMesh))
    assert mesh.get_clim() == (-0.25, 0.25)
    kept = W * np.outer(levels >= 0, levels >= 0)
    rows, columns = (np.flatnonzero(kept.any(axis)) for axis in (1, 0))
    np.testing.assert_array_equal(mesh.get_array(), kept[np.ix_(rows, columns)])
    assert f"{np.count_nonzero(kept):,} synapses" in live.get_title()
    ticks = [label.get_text() for label in live.get_yticklabels()]
    assert ticks == [f"1 ({(levels[rows] == 1).sum()})", f"2 ({(levels[rows] == 2).sum()})", "3 (2)"]


def test_large_matrices_are_pooled_before_they_are_drawn():
    W = np.zeros((1700, 1700), dtype=np.float32)
    W[1234, 7] = -0.2
    whole, live = weight_matrix(W, None, np.zeros(1700, dtype=int)).axes[:2]
    shown = whole.images[0].get_array()
    assert shown.shape == (500, 500)
    assert shown.min() == np.float32(-0.2)
    assert np.count_nonzero(shown) == 1
    assert live.collections[0].get_array().tolist() == [[pytest.approx(-0.2)]]


def test_activities_are_iterations_by_live_neurons_in_order_of_level():
    levels = np.array([1, 0, -1, 2])
    means = np.array([[0, 0.5, 0, 0], [2.0, 0.4, 0, 0], [1.0, -0.3, 9.0, 0.7]])
    axes = activities(means, levels).axes[0]
    (mesh,) = axes.collections
    shown = mesh.get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), [[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(shown.filled(0), [[0.5, 0, 0], [0.4, 2.0, 0], [0.3, 1.0, 0.7]])
    assert (mesh.norm.vmin, mesh.norm.vmax) == (1e-3, 10.0)


def test_fields_are_the_strongest_neurons_first_each_on_its_own_scale():
    W_in = np.zeros((5, 12), dtype=np.float32)
    W_in[1, 5] = -0.5
    W_in[3] = 4.0
    W_in[4, 0] = 0.1
    axes = receptive_fields(W_in, [3, 4], count=2).axes[0]
    sheet = axes.images[0].get_array().filled(np.nan)
    assert sheet.shape == (3 + 2, 2 * 4 + 3)
    np.testing.assert_array_equal(sheet[1:4, 1:5], np.ones((3, 4)))
    expected = np.zeros((3, 4))
    expected[1, 1] = -1
    np.testing.assert_array_equal(sheet[1:4, 6:10], expected)
    assert axes.images[0].get_clim() == (-1, 1)
    assert "2 strongest of 3" in axes.get_title()


def test_fields_of_three_channels_are_colours_around_grey():
    W_in = np.zeros((1, 3 * 4))
    W_in[0, 4] = 2.0  # the first pixel of the green plane
    sheet = receptive_fields(W_in, [2, 2], channels=3).axes[0].images[0].get_array()
    assert sheet.shape == (4, 4, 3)
    assert sheet[1, 1].tolist() == [0.5, 1.0, 0.5]
    assert sheet[2, 2].tolist() == [0.5, 0.5, 0.5]


# connectome


def lines(figure):
    return {
        to_hex(artist.get_edgecolor()[0]): artist
        for artist in figure.axes[0].collections
        if isinstance(artist, Line3DCollection)
    }


def test_synapses_are_coloured_by_direction_and_counted():
    positions = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 2]])
    W = np.zeros((4, 4))
    W[1, 0] = W[3, 1] = W[3, 2] = 0.5  # three forward
    W[2, 1] = 0.25  # one lateral
    W[1, 3] = -0.25  # one backward
    figure = connectome(W, positions)
    drawn = lines(figure)
    assert {colour: len(artist._segments3d) for colour, artist in drawn.items()} == {
        "#d55e00": 3,
        "#000000": 1,
        "#009e73": 1,
    }
    assert np.asarray(drawn["#009e73"]._segments3d[0]).tolist() == [[1, 1, 2], [1, 0, 1]], "from sender to receiver"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["forward 3 (75% of |W|)", "lateral 1 (12% of |W|)", "backward 1 (12% of |W|)"]


def test_levels_decide_the_direction_where_they_are_given():
    positions = np.array([[0, 0, 0], [1, 0, 1]])
    W = np.array([[0, 0], [1.0, 0]])
    assert list(lines(connectome(W, positions))) == ["#d55e00"]
    assert list(lines(connectome(W, positions, levels=[3, 1]))) == ["#009e73"]
    assert list(lines(connectome(W, positions, levels=[2, 2]))) == ["#000000"]


def test_only_the_strongest_synapses_are_drawn_but_all_are_counted():
    W, positions, _, owner = network()
    count = 50
    figure = connectome(W, positions, owner=owner, count=count)
    segments = np.concatenate([artist._segments3d for artist in lines(figure).values()])
    rows, columns = np.nonzero(np.abs(W) >= np.sort(np.abs(W), axis=None)[-count])
    expected = {(*positions[c], *positions[r]) for r, c in zip(rows, columns, strict=True)}
    assert {tuple(segment.ravel()) for segment in segments} == expected
    assert len(segments) == count
    assert figure.legends[0].get_title().get_text() == f"50 strongest of {np.count_nonzero(W):,} synapses"


# all of them


EPOCHS = [
    {
        "event": "epoch",
        "task": task,
        "step": 10 * n,
        "loss": 1 / n,
        "train_accuracy": 0.5,
        "val_accuracy": 0.4,
        "live_neurons": 90 - n,
    }
    for task in ("edges", "shapes")
    for n in (1, 2, 3)
]


def test_tasks_follow_one_another_along_the_steps():
    claimed = {"event": "task_claimed", "task": "shapes", "accuracy_val": 0.37}
    loss, accuracy, neurons, synapses = training_curves([*EPOCHS, claimed]).axes
    curves = [np.asarray(line.get_xydata()).tolist() for line in loss.lines if len(line.get_xdata()) == 3]
    assert [[x for x, _ in curve] for curve in curves] == [[10, 20, 30], [40, 50, 60]]
    assert [y for _, y in curves[0]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert accuracy.get_ylim() == (0, 1)
    assert [60.0, 0.37] in [line.get_xydata().tolist()[0] for line in accuracy.lines if len(line.get_xdata()) == 1]
    assert neurons.lines[0].get_ydata().tolist() == [89, 88, 87]
    assert np.isnan(synapses.lines[0].get_ydata()).all(), "what was not recorded is not drawn"


def test_without_a_grid_each_level_is_a_disc_at_its_height():
    levels = np.array([0, 0, 1, 1, 1, 1, 2, -1])
    spots = drawing_positions(np.zeros((8, 3)), levels)
    assert spots[:, 2].tolist() == [0, 0, 1, 1, 1, 1, 2, 0]
    assert len(np.unique(spots, axis=0)) == 8, "no two neurons lie on one another"
    radius = np.hypot(spots[:, 0], spots[:, 1])
    assert radius[levels == 1].max() == pytest.approx(3.5**0.5), "the area grows with the number"
    on_grid = np.array([[0.0, 1, 2], [1, 1, 2]])
    np.testing.assert_array_equal(drawing_positions(on_grid, [0, 1]), on_grid)


SMALL = {
    "neurons_by_level": lambda: neurons_by_level(ROWS),
    "depth_over_tasks": lambda: depth_over_tasks(ROWS),
    "accuracy_matrix": lambda: accuracy_matrix(R, NAMES),
    "owner_flow": lambda: owner_flow(np.tril(np.ones((3, 4)), 1), NAMES),
    "weight_matrix": lambda: weight_matrix(network()[0], None, network()[2]),
    "activities": lambda: activities(np.ones((4, 194)), network()[2]),
    "receptive_fields": lambda: receptive_fields(network()[0][64:128, :64], [8, 8]),
    "connectome": lambda: connectome(*network()),
    "training_curves": lambda: training_curves(EPOCHS),
}

EMPTY = {
    "neurons_by_level": lambda: neurons_by_level([]),
    "depth_over_tasks": lambda: depth_over_tasks([]),
    "accuracy_matrix": lambda: accuracy_matrix(np.zeros((0, 0)), []),
    "owner_flow": lambda: owner_flow(np.zeros((0, 1)), []),
    "weight_matrix": lambda: weight_matrix(np.zeros((9, 9)), None, np.full(9, -1)),
    "activities": lambda: activities(np.zeros((4, 9)), np.full(9, -1)),
    "receptive_fields": lambda: receptive_fields(np.zeros((3, 4)), [2, 2]),
    "connectome": lambda: connectome(np.zeros((9, 9)), np.zeros((9, 3))),
    "training_curves": lambda: training_curves([]),
}


def test_the_lists_above_name_every_figure():
    modules = [sys.modules[f"nesa.figures.{name}"] for name in ("run", "network", "connectome", "training")]
    found = {name for module in modules for name, value in vars(module).items() if draws(value, module)}
    assert set(SMALL) == set(EMPTY) == found


def draws(value, module):
    """Whether a value is a public function of this very module that returns a figure."""
    own = getattr(value, "__module__", "") == module.__name__ and not value.__name__.startswith("_")
    return own and getattr(value, "__annotations__", {}).get("return") == "Figure"


@pytest.mark.parametrize("name", SMALL)
def test_files_are_pictures_small_and_the_same_each_time(name):
    first, second = render(SMALL[name]()), render(SMALL[name]())
    assert first == second
    with Image.open(io.BytesIO(first["png"])) as image:
        assert image.width > 300
        assert image.height > 200
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 3, "nothing was drawn"
    assert first["svg"].lstrip().startswith(b"<?xml")
    assert b"</svg>" in first["svg"]
    assert max(len(data) for data in first.values()) < SIZE


@pytest.mark.parametrize("name", SMALL)
def test_nothing_to_show_is_drawn_as_such(name):
    assert render(EMPTY[name]())["png"].startswith(b"\x89PNG")


def test_colours_of_tasks_repeat_only_with_another_hatch():
    looks = [(task_colour(index), task_hatch(index)) for index in range(40)]
    assert len(set(looks)) == 40


def test_a_picture_of_noise_is_reduced_to_fit():
    figure = page(9, 6)
    noise = np.random.default_rng(0).random((500, 700, 3))
    figure.set_layout_engine("none")
    figure.add_axes((0, 0, 1, 1)).imshow(noise, aspect="auto", interpolation="nearest")
    full = io.BytesIO()
    figure.savefig(full, format="png")
    reduced = render(figure)
    assert full.tell() > SIZE
    assert len(reduced["png"]) < 0.5 * full.tell()
    with Image.open(io.BytesIO(reduced["png"])) as image:
        assert image.size == (990, 660)
        pixels = np.asarray(image.convert("RGB"), dtype=float)
    with Image.open(full) as image:
        error = np.abs(pixels - np.asarray(image.convert("RGB"), dtype=float)).mean()
    assert error < 25, "the colours are still those of the figure"


@pytest.mark.parametrize("name", ["weight_matrix", "activities", "connectome"])
def test_files_stay_small_at_five_thousand_neurons(name):
    W, positions, levels, owner = network(planes=5, side=32)
    W[2048:] *= np.random.default_rng(1).random((len(W) - 2048, 1)) < 0.1  # a net after pruning
    means = np.random.default_rng(2).lognormal(-2, 1, (6, len(W)))
    draw = {
        "weight_matrix": lambda: weight_matrix(W, None, levels),
        "activities": lambda: activities(means, levels),
        "connectome": lambda: connectome(W, positions, None, owner),
    }
    assert max(sizes(draw[name]()).values()) < SIZE
