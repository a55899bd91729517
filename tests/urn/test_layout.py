"""Indices, ports and the metric of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from urn.layout import Distance, Layout


def test_neurons_are_numbered_plane_by_plane_and_row_by_row():
    X, Y, Z = 4, 3, 2
    layout = Layout.grid((X, Y, Z), 1, {"a": 2})
    for z in range(Z):
        for y in range(Y):
            for x in range(X):
                assert layout.positions[z * X * Y + y * X + x].tolist() == [x, y, z]
    assert layout.inputs.tolist() == list(range(X * Y))  # plane 0 is the image, row by row
    assert layout.ports["a"].tolist() == [X * Y * Z, X * Y * Z + 1]
    assert layout.hidden.tolist() == list(range(X * Y, X * Y * Z))
    assert layout.plane == (X, Y) and layout.S == X * Y * Z + 2


def test_colour_fills_three_planes():
    layout = Layout.grid((4, 3, 5), 3, {"a": 2})
    assert layout.inputs.tolist() == list(range(36))
    assert len(layout.hidden) == 24


def test_ports_stand_at_the_centre_of_the_last_plane():
    layout = Layout.grid((5, 5, 3), 1, {"a": 1, "b": 5})
    assert layout.positions[layout.ports["a"]].tolist() == [[2, 2, 2]]
    cells = {tuple(p) for p in layout.positions[layout.ports["b"]].tolist()}
    assert cells == {(2, 2, 2), (1, 2, 2), (3, 2, 2), (2, 1, 2), (2, 3, 2)}


def test_a_port_wider_than_the_plane_uses_cells_again():
    layout = Layout.grid((2, 2, 2), 1, {"a": 6})
    assert layout.positions[layout.ports["a"]][:, 2].eq(1).all()
    assert len({tuple(p) for p in layout.positions[layout.ports["a"]].tolist()}) == 4


def test_without_a_grid():
    layout = Layout.flat(20, 4, {"a": 3, "b": 2})
    assert layout.inputs.tolist() == [0, 1, 2, 3]
    assert layout.ports["a"].tolist() == [15, 16, 17] and layout.ports["b"].tolist() == [18, 19]
    assert layout.hidden.tolist() == list(range(4, 15))
    assert layout.plane is None and layout.S == 20


@pytest.mark.parametrize(("S", "d_in", "ports"), [(5, 3, {"a": 2}), (9, 0, {"a": 2}), (9, 3, {})])
def test_too_small_without_a_grid(S, d_in, ports):
    with pytest.raises(ValueError, match=f"{S} neurons cannot hold {d_in} inputs, {sum(ports.values())} outputs"):
        Layout.flat(S, d_in, ports)


@pytest.mark.parametrize(("shape", "channels"), [((4, 4, 1), 1), ((4, 4, 3), 3), ((0, 4, 3), 1)])
def test_too_small_a_grid(shape, channels):
    with pytest.raises(ValueError, match="has no plane left"):
        Layout.grid(shape, channels, {"a": 2})


def test_growth_keeps_every_index():
    layout = Layout.grid((3, 3, 2), 1, {"a": 2})
    grown = layout.with_planes(2).with_ports({"b": 3})
    assert grown.S == layout.S + 18 + 3
    assert torch.equal(grown.positions[: layout.S], layout.positions)
    assert torch.equal(grown.inputs, layout.inputs) and torch.equal(grown.ports["a"], layout.ports["a"])
    new = grown.positions[layout.S : layout.S + 18]
    assert new[:, 2].tolist() == [2.0] * 9 + [3.0] * 9  # behind the last plane, and once each
    assert len({tuple(p) for p in new.tolist()}) == 18
    assert grown.positions[grown.ports["b"]][:, 2].eq(1).all()  # a new port is placed where the old one is
    flat = Layout.flat(10, 2, {"a": 2}).with_planes(3)
    assert flat.S == 13 and flat.hidden.tolist() == [*range(2, 8), 10, 11, 12]


def test_two_ports_of_one_name():
    with pytest.raises(ValueError, match="already an output port called 'a'"):
        Layout.flat(20, 4, {"a": 3}).with_ports({"a": 2})


def test_a_part_renumbers_inputs_and_whole_ports():
    layout = Layout.grid((2, 2, 3), 1, {"a": 2, "b": 2})
    index = torch.tensor([9, 3, 2, 1, 0, 12, 13, 14])  # the inputs backwards, port a, half of port b
    part = layout.take(index)
    assert torch.equal(part.positions, layout.positions[index])
    assert part.inputs.tolist() == [4, 3, 2, 1]
    assert {name: port.tolist() for name, port in part.ports.items()} == {"a": [5, 6]}
    assert part.hidden.tolist() == [0, 7]
    assert part.plane == (2, 2)


def test_a_part_needs_the_whole_input():
    with pytest.raises(ValueError, match="whole input port"):
        Layout.flat(20, 4, {"a": 3}).take(torch.tensor([0, 1, 2, 9, 17, 18, 19]))


# --- the metric ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 1.0, 16.0])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_metric_equals_scipy(beta, gamma):
    layout = Layout.grid((4, 3, 5), 1, {"a": 4})
    expected = cdist(*[layout.positions.numpy() * np.sqrt([1.0, 1.0, beta])] * 2) ** gamma
    found = Distance(beta, gamma).lengths(layout.positions, layout.positions)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    rows = Distance(beta, gamma).lengths(layout.positions[5:9], layout.positions)
    assert torch.equal(rows, found[5:9])


def test_metric_by_hand():
    a, b = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    assert Distance(beta=4.0).lengths(a, b).tolist() == [[5.0, 4.0]]
    assert Distance(beta=4.0, gamma=2.0).lengths(a, b).tolist() == [[25.0, 16.0]]


def test_a_neuron_has_no_distance_to_itself():
    positions = Layout.grid((9, 9, 9), 1, {"a": 4}).positions
    assert not Distance(16.0, 1.0).lengths(positions, positions).diagonal().any()


# --- ports that cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "ports", "message"),
    [
        ([0, 1], {"a": [1, 4]}, "neuron 1 is in the input port and in port 'a'"),
        ([0, 1], {"a": [3, 4], "b": [4, 5]}, "neuron 4 is in port 'a' and in port 'b'"),
        ([0, 0], {"a": [4]}, "neuron 0 is twice in the input port"),
        ([0, 1], {"a": [5, 5]}, "neuron 5 is twice in port 'a'"),
        ([0, 1], {"a": [6]}, "port 'a' contains neuron 6, but there are 6, from 0 on"),
        ([-1, 1], {"a": [4]}, "the input port contains neuron -1, but there are 6, from 0 on"),
    ],
)
def test_a_neuron_belongs_to_one_port_once(inputs, ports, message):
    ports = {name: torch.tensor(port) for name, port in ports.items()}
    with pytest.raises(ValueError, match=message):
        Layout(torch.zeros(6, 3), torch.tensor(inputs), ports)
