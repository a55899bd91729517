"""Nothing in a step waits for the device, or moves between it and the host.

The device is torch's meta device: it has shapes and no values, so whatever would wait for one (`item`, `bool`,
`nonzero`, a boolean index, a copy to the host) fails there, on any machine. What torch would let pass on it and a GPU
would not take, or take by copying, is refused by `Apart`. The code is the one that runs on the CPU; none of this has
been run on a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from forward_passes import with_costs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nesa.config.curriculum import Augment, Training
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.batches import Batches
from nesa.training.strategies.models import GrowingURN
from nesa.training.strategies.neural_pruning import NeuralPruning
from nesa.training.strategies.plugins import LRSchedulePlugin, TrainingLogPlugin
from nesa.training.task_data import Samples, TaskData
from urn.compaction import ActivityTracker
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.update_rules import UPDATES

META, B, I = torch.device("meta"), 6, 4
WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "equal", "is_nonzero"}


class Apart(TorchDispatchMode):
    """Operations on the device take what is there; the host may look at its own. strict: the host, too, asks for no
    value and makes no index."""

    def __init__(self, strict: bool = False):
        super().__init__()
        self.strict, self.count = strict, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {t.device.type for t in tensors if t.dim()}
        self.count += "meta" in places
        assert len(places) < 2, f"{name} mixes {places}"
        assert name not in WAITING or not (self.strict or "meta" in places), f"{name} waits"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and "meta" in places:
            assert all(t is None or t.dtype != torch.bool for t in args[1]), f"{name} by a mask waits"
        out = func(*args, **kwargs)
        places |= {t.device.type for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.dim()}
        assert len(places) < 2, f"{name} moves between {places}"
        return out


def network(update: str, scattered: bool) -> URN:
    generator = torch.Generator().manual_seed(1)
    layout = Layout.grid((2, 2, 5), 1, {"a": 2, "b": 3})
    if scattered:  # indices, where otherwise there are slices
        layout = layout.take(torch.randperm(25, generator=generator))
    urn = URN(layout, I, update, "linear", generator=generator, mask=torch.rand(25, 25, generator=generator) < 0.8)
    frozen = torch.zeros(25, dtype=torch.bool)
    frozen[layout.inputs] = True
    frozen[layout.hidden[[1, 4, 5] if scattered else [0, 1, 2]]] = True
    W = urn.W.data.clone()
    W[frozen[:, None] & ~frozen] = 0
    W[layout.inputs] = 0
    urn.set_parameters(layout, W, urn.b.data, frozen)
    if scattered:
        inactive = torch.zeros(I, 25, dtype=torch.bool)
        inactive[2, layout.hidden[:3]] = True
        urn.set_inactive(inactive)
    return urn


def step(urn: URN, optimizer: torch.optim.Optimizer, penalty: Penalty, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    logits, activity = with_costs(urn, x, "a", penalty.activity_costs(I, B))
    (logits.pow(2).mean() + activity).backward()
    optimizer.step()


def on_the_device(urn: URN, monkeypatch) -> URN:
    still = urn.still()  # looks at values: once for each set of neurons, not in a step
    monkeypatch.setattr(URN, "still", lambda self: still)
    return urn.to(META)


OPTIMIZERS = {
    "adam": {"penalty": Penalty("prox_decoupled", 0.1, 1e-3)},
    "adam, lengths": {"penalty": Penalty("prox_adam", 0.1, 1e-3, synapse_length=0.1, gamma=0.0)},
    "adamw, subgradient": {"penalty": Penalty("subgradient", 0.1, 1e-3), "weight_decay": 0.1},
    "sgd": {"penalty": Penalty("prox_decoupled", 0.1, 1e-3, synapse_length=0.1, beta=2.0), "momentum": 0.9},
}


@pytest.mark.parametrize("scattered", [False, True], ids=["slices", "indices"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("update", list(UPDATES))
def test_a_step_waits_for_nothing(update, optimizer, scattered, monkeypatch):
    options = OPTIMIZERS[optimizer]
    for kept in (1 << 25, 0):  # lengths kept, and computed again strip by strip
        monkeypatch.setattr("urn.optim.KEPT", kept)
        for place, strict in ((torch.device("cpu"), True), (META, False)):
            urn = network(update, scattered)
            x = torch.randn(B, 4)
            if place == META:
                urn, x = on_the_device(urn, monkeypatch), x.to(META)
            proximal = Proximal(urn, optimizer.partition(",")[0], 1e-2, **options)
            urn.tracker = ActivityTracker(urn)
            step(urn, proximal, options["penalty"], x)  # the first one makes plans and moments
            with Apart(strict) as apart:
                step(urn, proximal, options["penalty"], x)
            assert apart.count > 50 or strict
            monkeypatch.undo()
            monkeypatch.setattr("urn.optim.KEPT", kept)


@pytest.mark.parametrize("scattered", [False, True], ids=["slices", "indices"])
def test_holding_waits_for_nothing(scattered, monkeypatch):
    """With any other optimiser of torch's, rows are put back by value after each step."""
    urn = on_the_device(network("residual_both", scattered), monkeypatch)
    assert {t.device.type for t in (urn.mask, *urn._frozen_values)} == {"meta"}
    with Apart() as apart:
        urn.restore_frozen()
    assert apart.count > 3


def test_what_is_held_follows_the_network():
    """To another type here, as to a GPU: rows and absent synapses are put back there."""
    urn = network("plain", True).double()
    frozen, W = urn.frozen, urn.W.data.clone()
    urn.W.data += 1
    urn.restore_frozen()
    assert torch.equal(urn.W.data[frozen], W[frozen]) and urn.W.dtype == torch.float64
    assert not urn.W.data[~frozen][~urn.mask[~frozen]].any() and urn.mask.dtype == torch.bool
    assert (urn.W.data != W).any()


def test_a_step_of_the_training_loop_waits_for_nothing(monkeypatch):
    """The plugins of a run, its batches with changed images, and the growing model, as the loop calls them."""
    layout = Layout.grid((4, 4, 3), 1, {"a": 3})
    model = GrowingURN(Accumulation(layout, inputs_receive=False), Dynamics(I, "residual_both", "linear"))
    samples = Samples(torch.randint(256, (24, 16), dtype=torch.uint8), torch.arange(24) % 3).to(META)
    data = TaskData("a", 0, ("x", "y", "z"), samples, samples, samples, 0.5, 0.2, (1, 4, 4), "arrays", False)
    loader = Batches(data, data.train, B, seed=0, augment=Augment(flip=True, shift=1))
    penalty = Penalty("prox_adam", 0.1, 1e-3)
    strategy = SimpleNamespace(
        model=model, dataloader=loader, train_epochs=3, device=META, experience=SimpleNamespace(task_labels=[0])
    )
    model.train()
    strategy.experience.current_experience = 0
    strategy._criterion, strategy.training_pass = torch.nn.functional.cross_entropy, None
    strategy.training_pass = None
    strategy.criterion = lambda: torch.nn.functional.cross_entropy(strategy.mb_output, strategy.mb_y)
    strategy.optimizer = Proximal(model.task_network, "adam", 1e-2, penalty=penalty)
    plugins = [LRSchedulePlugin(Training(lr=1e-2)), NeuralPruning(penalty), TrainingLogPlugin(lambda *_: None)]
    for plugin in plugins:
        plugin.before_training_exp(strategy)
    on_the_device(model.task_network, monkeypatch)
    plugins[1].track_activity(model.task_network)
    waiting = Apart()
    for number, (x, y, t) in enumerate(loader):
        if number == 1:  # the first one makes plans and moments
            waiting.__enter__()
        strategy.mb_y = y
        for plugin in plugins:
            plugin.before_training_iteration(strategy)
        strategy.optimizer.zero_grad()
        for plugin in plugins:
            plugin.before_forward(strategy)
        strategy.mb_output = model(x, t)
        strategy.loss = torch.zeros(1, device=META) + torch.nn.functional.cross_entropy(strategy.mb_output, y)
        for hook in ("before_backward", "before_update", "after_update", "after_training_iteration"):
            for plugin in plugins:
                getattr(plugin, hook)(strategy)
            if hook == "before_backward":
                strategy.loss.backward()
            if hook == "before_update":
                strategy.optimizer.step()
    waiting.__exit__(None, None, None)
    assert waiting.count > 200


def test_the_watchman_watches():
    """Each way to wait for the device that the tests above rule out is noticed."""
    there, here = torch.zeros(3, device=META), torch.zeros(3)
    ways = [
        lambda: float(there[0]),
        lambda: bool((there > 0).any()),
        lambda: there[there > 0],
        lambda: there[torch.tensor([0, 1])],
        lambda: there.cpu(),
        lambda: here.to(META),
        lambda: there + here,
    ]
    for way in ways:
        with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Apart():
            way()
    with pytest.raises(AssertionError), Apart(strict=True):
        here.nonzero()
    with Apart():
        here.nonzero()
