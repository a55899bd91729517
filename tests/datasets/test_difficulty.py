"""How hard the shipped sources are, for models that share no code with this package.

The default rules and sizes, at a smaller number of samples, so that a source which became trivial, impossible or was
re-tuned unnoticed fails here. Bars: edges, linear under 75 % and one small hidden layer over 90 %; shapes, linear under
40 % and the small layer under what a deeper net reaches. About 40 s on one thread.
"""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from nesa.datasets import registry


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return registry.DataDirs(cache=tmp_path_factory.mktemp("cache"))


def data(name, cache, size=(32, 32), **params):
    found = registry.load(name, params, size=size, data=cache)
    train, test = (np.float32(x).reshape(len(x), -1) for x in (found.train_x, found.test_x))
    mean, spread = train.mean(), train.std()
    return (train - mean) / spread, np.array(found.train_y), (test - mean) / spread, np.array(found.test_y)


def linear(x, y, test_x, test_y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=60).fit(x[:6000], y[:6000]).score(test_x, test_y)


def network(hidden, epochs, x, y, test_x, test_y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MLPClassifier(hidden, max_iter=epochs, alpha=1e-3, random_state=0)
        return model.fit(x, y).score(test_x, test_y)


def test_edges_need_one_hidden_layer_and_no_more(cache):
    parts = data("edges", cache, train=12_000, test=3_000)
    assert 0.20 < linear(*parts) < 0.45  # the bar is 0.75; measured 0.27
    assert network((128,), 10, *parts) > 0.92  # the bar is 0.90; 0.94 here, 0.96 with all 20,000


def test_shapes_reward_depth(cache):
    parts = data("shapes", cache, train=15_000, test=3_000)
    assert 0.14 < linear(*parts) < 0.30  # the bar is 0.40; measured 0.18
    shallow, deep = network((128,), 10, *parts), network((256, 128), 10, *parts)
    assert 0.80 < shallow < deep - 0.02  # 0.87 and 0.91 here; 0.96 and 0.98 with all 30,000 and (512, 256)
    assert deep > 0.86


def test_digits_are_easy(cache):
    assert network((128,), 15, *data("digits", cache)) > 0.94


def test_scenes_are_about_as_hard_as_cifar10(cache):
    parts = data("scenes", cache, train=6_000, test=2_000)
    assert linear(*parts) < 0.35
    assert 0.33 < network((128,), 8, *parts) < 0.65


def test_spheres_are_a_dial(cache):
    easy = data("spheres", cache, size=(10,))
    assert linear(*easy) < 0.60
    assert network((128,), 15, *easy) > 0.98
    hard = data("spheres", cache, size=(10,), shells=6, classes=2)
    assert network((128,), 15, *hard) < 0.80


@pytest.mark.parametrize(
    ("name", "low", "high"),  # measured: 1.00, 1.00, 0.80 and 0.56; with all samples 1.00, 1.00, 0.95 and 0.75
    [("gratings", 0.97, 1.0), ("positions", 0.97, 1.0), ("junctions", 0.70, 0.90), ("overlaps", 0.45, 0.70)],
)
def test_the_ladder_climbs(name, low, high, cache):
    parts = data(name, cache, train=8_000, test=2_000)
    assert 0.12 < linear(*parts) < 0.30  # chance is 0.17
    assert low <= network((128,), 8, *parts) <= high
