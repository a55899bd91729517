"""Test the data, the text and the escaping of the connectome page."""

from __future__ import annotations

import base64
import json
import re

import numpy as np

from nesa.analysis.connectome import Connectome, Synapses
from nesa.figures.connectome_page import FINEST, connectome_page


def web(names=("a", "b"), grid=True):
    """Three inputs in plane 0, four neurons in plane 1, a port in plane 2."""
    positions = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 2]]) * 1.0
    levels = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    owner = np.array([-2, -2, -2, 0, 0, 1, 1, -3])
    task = np.array([-2, -2, -2, 0, 0, 1, 1, 1])
    first = Synapses(np.array([0, 4]), np.array([3, 3]), np.array([1.0, -0.5], dtype=np.float32))
    second = Synapses(np.array([5, 7, 3]), np.array([7, 5, 5]), np.array([0.8, 0.4, 0.1], dtype=np.float32))
    return Connectome(list(names), positions if grid else 0 * positions, levels, owner, task, grid, [first, second])


def part(page, name):
    return re.search(f'id="{name}">([^<]*)</script>', page)[1]


def vertices(page, name):
    return np.frombuffer(base64.b64decode(part(page, name)), dtype="<u2").reshape(-1, 4)


def drawn(page):
    """{(task, way): [(sender's place, receiver's place, strength)]} as the page draws them."""
    ends = vertices(page, "lines").reshape(-1, 2, 4) / FINEST
    groups = json.loads(part(page, "data"))["groups"]
    return {
        (group["task"], group["way"]): [
            (tuple(a[:3].round(3)), tuple(b[:3].round(3)), round(a[3], 3))
            for a, b in ends[group["first"] : group["first"] + group["count"]]
        ]
        for group in groups
        if group["count"]
    }


def test_each_synapse_is_a_line_from_sender_to_receiver_in_the_layer_of_its_task():
    found = drawn(connectome_page(web()))
    assert found == {
        ("0", "forward"): [((0, 1, 0), (0, 1, 0.5), 1.0)],
        ("0", "lateral"): [((0.5, 1, 0.5), (0, 1, 0.5), 0.5)],
        ("1", "forward"): [((0, 0, 0.5), (0.5, 0, 1), 0.8)],
        ("1", "backward"): [((0.5, 0, 1), (0, 0, 0.5), 0.4)],
        ("1", "lateral"): [((0, 1, 0.5), (0, 0, 0.5), 0.1)],
    }


def test_the_weakest_are_left_out_and_the_page_says_so():
    page = connectome_page(web(), count=3)
    assert sorted(strength for lines in drawn(page).values() for *_, strength in lines) == [0.5, 0.8, 1.0]
    assert "of 5 synapses shown. The 2 weakest are not in this page." in page
    assert "weakest are not" not in connectome_page(web())


def test_counts_and_shares_are_those_of_all_synapses():
    page = re.sub("<[^>]+>", " ", connectome_page(web(), count=1))
    for words in ("forward 2 64.3% of |W|", "lateral 2 21.4% of |W|", "backward 1 14.3% of |W|"):
        assert words in re.sub(r"\s+", " ", page)
    assert "2 neurons, 3 synapses" in page


def test_neurons_are_grouped_by_what_they_are():
    page = connectome_page(web())
    groups = json.loads(part(page, "data"))["neurons"]
    assert [(group["task"], group["first"], group["count"]) for group in groups] == [
        ("", 0, 3),
        ("0", 3, 2),
        ("0", 5, 0),
        ("1", 5, 2),
        ("1", 7, 1),
    ]
    assert len(vertices(page, "points")) == 8
    assert groups[0]["colour"] == "#d8d8d8" and groups[4]["round"] == 0


def test_heights_are_named():
    assert re.findall('class="plane">([^<]+)', connectome_page(web())) == ["plane 0 (input)", "plane 1", "plane 2"]
    assert re.findall('class="plane">([^<]+)', connectome_page(web(grid=False))) == ["input", "level 1", "level 2"]


def test_names_are_text_and_nothing_is_fetched():
    page = connectome_page(web(names=("</script><script>alert(1)</script>", "b & c")), title="<img src=x>")
    assert "alert(1)</script>" not in page and "<img" not in page
    assert "&lt;script&gt;alert(1)" in page and "b &amp; c" in page
    assert not re.findall(r"\b(?:src|href|url|fetch|import)\b *[=(]", connectome_page(web())) and "http" not in page


def test_an_empty_network_is_a_page_too():
    nothing = Connectome([], np.zeros((0, 3)), *(np.zeros(0, dtype=int),) * 3, False, [])
    assert "of 0 synapses shown" in connectome_page(nothing)
