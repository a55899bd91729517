"""The claimed network put together from the tasks' structures: which synapse is whose, and who reads from whom."""

from __future__ import annotations

import numpy as np
import pytest

from nesa.analysis.connectome import assemble_connectome, fields, flow


def structures(grid=True):
    """Two tasks on 3 inputs (0-2). The first claims 4 and 5 (port 8), the second claims 7 and reads 4 (port 9, 10)."""
    first = np.zeros((6, 6), dtype=np.float32)  # members 0 1 2 4 5 8
    first[3, 0], first[4, 3], first[5, 4], first[1, 4] = 0.5, -1.0, 2.0, 0.25
    second = np.zeros((7, 7), dtype=np.float32)  # members 0 1 2 4 7 9 10
    second[3, 0] = 0.5  # of the first task
    second[4, 1], second[4, 3], second[5, 4], second[6, 3] = 1.0, 3.0, -4.0, 0.5
    parts = {}
    for name, members, owner, levels, W in (
        ("a", [0, 1, 2, 4, 5, 8], [-2, -2, -2, 0, 0, -3], [0, 0, 0, 1, 2, 3], first),
        ("b", [0, 1, 2, 4, 7, 9, 10], [-2, -2, -2, 0, 1, -3, -3], [0, 0, 0, 3, 2, 3, 3], second),
    ):
        positions = np.array([[m % 3, m // 3, m // 3] for m in members], dtype=np.float32) * grid
        parts[name] = {"members": np.array(members), "owner": np.array(owner), "levels": np.array(levels), "W": W}
        parts[name]["positions"] = positions
    return parts


def test_a_synapse_belongs_to_the_task_that_owns_its_receiver():
    web = assemble_connectome(structures())
    global_index = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10])
    found = [
        {
            (int(global_index[s]), int(global_index[r])): float(w)
            for s, r, w in zip(layer.sender, layer.receiver, layer.weight, strict=True)
        }
        for layer in web.layers
    ]
    assert found == [
        {(0, 4): 0.5, (4, 5): -1.0, (5, 8): 2.0, (5, 1): 0.25},
        {(1, 7): 1.0, (4, 7): 3.0, (7, 9): -4.0, (4, 10): 0.5},
    ]
    assert web.owner.tolist() == [-2, -2, -2, 0, 0, 1, -3, -3, -3]
    assert web.task.tolist() == [-2, -2, -2, 0, 0, 1, 0, 1, 1]
    assert web.levels.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3], "4 has the level that its own task measured"


def test_flow_is_by_owner_of_the_sender_and_leaves_out_what_inputs_read():
    np.testing.assert_allclose(flow(assemble_connectome(structures())), [[0.5, 3.0, 0], [1.0, 3.5, 4.0]])


def test_fields_are_the_rows_of_a_tasks_neurons_over_the_inputs():
    web = assemble_connectome(structures())
    assert fields(web, 0).tolist() == [[0.5, 0, 0], [0, 0, 0]]
    assert fields(web, 1).tolist() == [[0, 1.0, 0]]


@pytest.mark.parametrize("grid", [True, False])
def test_direction_is_by_z_on_a_grid_and_by_level_elsewhere(grid):
    web = assemble_connectome(structures(grid))
    assert web.grid == grid
    expected = web.positions[:, 2] if grid else web.levels
    assert web.height.tolist() == expected.tolist()


def test_nothing_claimed_is_an_empty_network():
    web = assemble_connectome({})
    assert (web.names, len(web.owner), web.layers, flow(web).shape) == ([], 0, [], (0, 1))
