"""urn.measures.receptive_fields on networks whose receptive fields are known."""

import math

import pytest
import torch

from urn.layout import Layout
from urn.measures.receptive_fields import fields


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def blank(X: int = 12) -> tuple[torch.Tensor, Layout]:
    layout = Layout.grid((X, X, 2), 1, {"task": 2})
    return torch.zeros(layout.S, layout.S), layout


def at(layout: Layout, x: int, y: int, z: int) -> int:
    return int((layout.positions == torch.tensor([x, y, z])).all(1).nonzero()[0])


def gaussian_fields(places: torch.Tensor) -> tuple[torch.Tensor, Layout]:
    """Each hidden neuron reads the pixels around its row of `places` (n, 2), falling off over 1.5 of them."""
    W, layout = blank()
    pixels = layout.positions[layout.inputs, :2]
    W[layout.hidden.unsqueeze(1), layout.inputs] = torch.exp(-torch.cdist(places, pixels).square() / 4.5)
    return W, layout


def test_two_pixels_of_equal_weight_have_their_centre_between_them_and_half_their_distance_as_spread():
    W, layout = blank()
    neuron = at(layout, 7, 2, 1)
    W[neuron, at(layout, 3, 4, 0)] = 0.5
    W[neuron, at(layout, 6, 8, 0)] = -0.5
    found = fields(W, layout.positions, layout.inputs, generator())
    assert found.neurons.tolist() == [neuron]
    assert found.centres[0].tolist() == [4.5, 6.0]
    assert found.spread == pytest.approx(2.5)


def test_a_weak_synapse_far_away_counts_by_its_square():
    W, layout = blank()
    neuron = at(layout, 0, 0, 1)
    W[neuron, at(layout, 0, 0, 0)], W[neuron, at(layout, 10, 0, 0)] = 3.0, 1.0
    found = fields(W, layout.positions, layout.inputs, generator())
    assert found.centres[0].tolist() == pytest.approx([1.0, 0.0])
    assert found.spread == pytest.approx(3.0)  # sqrt(0.9 * 1 + 0.1 * 81)


def test_neurons_that_read_where_they_stand_are_compact_and_a_map():
    W, layout = gaussian_fields(blank()[1].positions[blank()[1].hidden, :2])
    found = fields(W, layout.positions, layout.inputs, generator())
    assert found.ratio < 0.4
    assert found.map > 0.98


def test_standing_elsewhere_changes_the_map_alone():
    places = blank()[1].positions[blank()[1].hidden, :2]
    W, layout = gaussian_fields(places)
    moved, _ = gaussian_fields(places[torch.randperm(len(places), generator=generator())])
    here, there = (fields(w, layout.positions, layout.inputs, generator()) for w in (W, moved))
    assert there.spread == pytest.approx(here.spread)
    assert abs(there.map) < 0.25


def test_random_weights_are_as_their_null():
    W, layout = blank()
    W[layout.hidden] = torch.randn(len(layout.hidden), layout.S, generator=generator())
    found = fields(W, layout.positions, layout.inputs, generator())
    assert len(found.neurons) == len(layout.hidden)
    assert found.ratio == pytest.approx(1.0, abs=0.02)
    assert abs(found.map) < 0.25


def test_synapses_into_input_neurons_and_from_hidden_ones_are_no_fields():
    W, layout = blank()
    W[layout.inputs] = 1.0
    W[:, layout.hidden] = 1.0
    found = fields(W, layout.positions, layout.inputs, generator())
    assert not len(found.neurons)
    assert all(math.isnan(value) for value in (found.spread, found.shuffled, found.ratio, found.map))
