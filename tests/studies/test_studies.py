"""The parts of the studies in benchmarks/ that arithmetic can check. What they find is in docs/results/rows."""

from __future__ import annotations

from dataclasses import asdict, replace

import bootstrap_intervals
import continual as claim_study
import geometry
import paired_difference
import pytest
import reference_nets
import small_run
import spheres
import study_images
import torch
from result_rows import Rows
from torch import nn

from nesa.config.loader import load
from nesa.experiment.run import load_tasks
from nesa.progress import Progress
from nesa.run_folder.checkpoint import load_checkpoint, save
from nesa.run_folder.reader import StoredRun
from nesa.training.accumulation import Accumulation
from urn.layout import Layout
from urn.mlp_conversion import embed


def mlp_urn(update: str = "plain") -> tuple:
    """10 inputs, 7 and 5 hidden neurons, 2 outputs, as a URN with the port of the studies."""
    linear = [nn.Linear(n, m, bias=False, dtype=torch.float64) for n, m in ((10, 7), (7, 5), (5, 2))]
    linear[1].weight.data.abs_()  # so that no neuron is silent and no output is a tie at zero
    mlp = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    return embed(mlp, update=update, port=spheres.PORT), mlp


def data_of(mlp: nn.Module) -> spheres.Data:
    x = torch.randn(600, 10, dtype=torch.float64)
    y = mlp(x).argmax(1)
    return spheres.Data(x[:200], y[:200], x[200:400], y[200:400], x[400:], y[400:])


def test_an_embedded_mlp_is_described_as_what_it_is():
    urn, mlp = mlp_urn()
    urn.mask = None
    found = spheres.describe(urn, data_of(mlp))
    assert (found["active"], found["widths"], found["widths_peak"]) == (12, (7, 5), (7, 5))
    assert found["accuracy_test"] == 1.0 and found["chain_same"] == 200 and found["chain_difference"] < 1e-12
    assert found["chain_kept"] == found["nonzero"] == 10 * 7 + 7 * 5 + 5 * 2
    assert found["extract_difference"] < 1e-12 and found["named"] == "" and found["graph_depth"] == 3


def test_noise_weights_that_change_no_prediction_are_found():
    urn, mlp = mlp_urn()
    urn.mask = None
    clean = urn.W.data.clone()
    noise = torch.rand(clean.shape, dtype=torch.float64) * 1e-6
    noise[:, urn.layout.ports[spheres.PORT]] = 0
    urn.set_parameters(urn.layout, torch.where(clean == 0, noise, clean), urn.b.data)
    data = data_of(mlp)
    W, threshold = spheres.sparsest(urn, data.val_x)
    assert threshold >= 1e-6 and torch.count_nonzero(W) <= torch.count_nonzero(clean)
    assert spheres.describe(urn, data)["pruned_chain_same"] == 200


def test_cut_neurons_send_nothing():
    urn, _ = mlp_urn("residual_output")
    second = torch.zeros(urn.S, dtype=torch.bool)
    second[17:22] = True  # 10 inputs, 7, then 5 neurons
    x = torch.randn(20, 10, dtype=torch.float64)
    assert not spheres.cut(urn, second)(x).any() and urn(x).any()


def test_gaussian_images_have_the_mean_and_covariance_of_their_class():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat_interleave(400)
    mix = torch.randn(6, 6, generator=generator)
    photos = 10 * labels[:, None] + torch.rand(4000, 6, generator=generator) ** 3 @ mix
    y = torch.zeros(20_000, dtype=torch.long)
    x = study_images.gaussian(photos, labels, y, generator)
    assert torch.allclose(x.mean(0), photos[:400].mean(0), atol=0.03)
    assert torch.allclose(torch.cov(x.T), torch.cov(photos[:400].T), atol=0.03)


def test_the_local_anchor_sees_its_neighbourhood_alone():
    model = reference_nets.Local(X=7, planes=2, radius=1)
    x = torch.rand(1, 49, requires_grad=True)
    hidden = nn.functional.linear(x, model.planes[0].weight * model.near)  # type: ignore
    hidden[0, 24].backward()
    assert x.grad is not None
    seen = x.grad.reshape(7, 7) != 0
    assert seen.sum() == 9 and seen[2:5, 2:5].all()
    assert reference_nets.synapses(model) == 2 * (25 * 9 + 20 * 6 + 4 * 4) + 490


def test_every_study_has_settings_that_differ():
    for module in (spheres, geometry):
        for name, study in module.STUDIES.items():
            settings = [tuple(asdict(s).values()) for s in study()]
            assert settings and len(set(settings)) == len(settings), name


def test_neurons_that_fall_silent_are_dropped_and_those_that_stay_are_still_watched(monkeypatch):
    class Dead(spheres.URN):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.b.data[self.layout.hidden[:3]] = -1e3  # these never fire

    monkeypatch.setattr(spheres, "URN", Dead)
    setting = replace(spheres.TINY, S=40, epochs=3, I=3)
    data = spheres.make_data(setting)
    urn, left = spheres.train(setting, data)
    assert left[0] <= 25 and len(left) == 3 and urn.S == left[-1] + 12 and urn.inactive is None
    _, whole = spheres.train(setting, data, compact=False)
    assert whole == [28, 28, 28]


def test_what_starts_from_main_starts_from_main_without_other_keys(tmp_path):
    store = Accumulation(Layout.grid((2, 2, 3), 1, {"edges": 2}))
    (tmp_path / "seed-0").mkdir()
    save(tmp_path / "seed-0" / "before-2.pt", store.state_dict())
    rows = Rows(tmp_path / "rows.csv")
    assert claim_study.Study(rows, 0, ["penalties.activity=4e-4"], tmp_path, None).before(2).layout.S == store.layout.S
    with pytest.raises(SystemExit, match=r"network.iterations=3: this condition starts from main's own network"):
        claim_study.Study(rows, 0, ["network.iterations=3"], tmp_path, None).before(2)


def test_a_run_of_each_study_gives_a_row(monkeypatch):
    found = spheres.row(replace(spheres.TINY, S=40, epochs=2, I=3))
    assert found["active"] <= 28 and 0 <= found["accuracy_test"] <= 1 and len(found["widths"]) == 2
    x, y = torch.randint(0, 256, (1300, 25), dtype=torch.uint8), torch.arange(1300) % 10
    monkeypatch.setattr(study_images, "photos", lambda X: (x, y, x, y))
    small = replace(geometry.WITH, X=5, Z=3, I=2, train=300, epochs=2)
    for s in (small, replace(small, metric="shuffled", images="permuted"), replace(small, model="linear")):
        row = geometry.row(s)
        assert set(geometry.MEASURES) | {"seconds"} == row.keys()
        assert row["accuracy_test"] > 0 and (s.model == "linear" or row["named_same"] == 1300)


def test_depths_of_all_images_are_those_of_the_run_and_resamples_lie_around_them(tmp_path):
    folder = small_run.train(tmp_path, "run")
    curriculum = load(folder / "curriculum.yaml")
    accumulation = Accumulation.from_state_dict(load_checkpoint(folder, "ten")["learner"])
    tasks = load_tasks(curriculum, tmp_path / "data", Progress())[0]
    for data, row in zip(tasks, StoredRun(folder).rows, strict=True):
        draws = bootstrap_intervals.counts(len(data.val), 50, torch.Generator().manual_seed(0)).double()
        assert bool((draws.sum(1) == len(data.val)).all()) and bool((draws[0] == 1).all())
        found = bootstrap_intervals.depths(accumulation, data, curriculum.learner.margin, draws)
        measured = [float(row[f"depth_{name}"]) for name in bootstrap_intervals.MEASURES]
        assert found[0].tolist() == pytest.approx(measured)
        assert found[1:, 1].min() < found[0, 1] < found[1:, 1].max() and found[:, 2].unique().numel() == 1


def test_conditions_are_compared_by_seed_and_only_where_both_have_it(tmp_path):
    rows = Rows(tmp_path / "rows.csv")
    one = {"task": "t", "seconds": 1}
    for condition, keys, seed, test, claimed in (
        ("main", "", 0, 0.5, 10), ("main", "", 1, 0.6, 20), ("main", "", 2, 0.9, 90),
        ("other", "", 0, 0.1, 1), ("other", "a=1", 0, 0.4, 12), ("other", "a=1", 1, 0.58, None),
    ):  # fmt: skip
        rows.add(condition=condition, keys=keys, seed=seed, accuracy_test=test, neurons_claimed=claimed, **one)
    found = paired_difference.differences(rows, "main", "other a=1")
    assert found == {("t", "accuracy_test"): pytest.approx({"0": 10, "1": 2}), ("t", "neurons_claimed"): {"0": -2}}
    mean, error = paired_difference.mean_and_error(list(found["t", "accuracy_test"].values()))
    assert (mean, error) == pytest.approx((6, 4))
    assert not paired_difference.differences(rows, "main", "none")
    left = paired_difference.compare(rows, "main", "other a=1", "other a=1", "other")
    assert left == {("t", "accuracy_test"): pytest.approx({"0": 10 - 30}), ("t", "neurons_claimed"): {"0": -2 - 11}}
    assert not paired_difference.compare(rows, "main", "other", "main", "none")


def test_settings_are_compared_by_the_columns_that_say_which_rows(tmp_path):
    rows = Rows(tmp_path / "rows.csv")
    made = ((0.0, "a", 0, 0.5), (1e-5, "a", 0, 0.6), (1e-5, "b", 0, 0.9), (0.0, "a", 1, 0.1))
    for length, images, seed, test in made:
        rows.add(length=length, images=images, seed=seed, accuracy_test=test, neurons=7, seconds=1)
    found = paired_difference.differences(rows, "length=1e-5 images=a", "length=0")
    assert found == {("", "accuracy_test"): pytest.approx({"0": 10}), ("", "neurons"): {"0": 0}}
    with pytest.raises(ValueError, match="more than one row of seed 0"):
        paired_difference.differences(rows, "length=1e-5", "length=0")
    with pytest.raises(ValueError, match="COLUMN=VALUE"):
        paired_difference.differences(rows, "length", "length=0")
    with pytest.raises(KeyError, match="no column wdith"):
        paired_difference.differences(rows, "wdith=3", "length=0")
