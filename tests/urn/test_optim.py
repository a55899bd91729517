"""The proximal optimiser against torch's own, and its threshold against the closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from forward_passes import with_costs

from urn import optim
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty

BASES = {
    "adam": (torch.optim.Adam, {}),
    "adam with decay": (torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {}),
    "sgd with momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "sgd with both": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
}


def network(frozen: tuple[int, ...] = (), mask: torch.Tensor | None = None) -> URN:
    layout = Layout.grid((2, 2, 4), 1, {"a": 2})
    generator = torch.Generator().manual_seed(3)
    urn = URN(layout, 3, "residual_both", "linear", mask=mask, generator=generator, dtype=torch.float64)
    mask = torch.zeros(layout.S, dtype=torch.bool)
    mask[list(frozen)] = True
    W = urn.W.data.clone()
    W[mask[:, None] & ~mask] = 0
    urn.set_parameters(layout, W, urn.b.data.clone(), mask)
    return urn


def steps(urn: URN, optimizer: torch.optim.Optimizer, count: int = 5) -> None:
    generator = torch.Generator().manual_seed(9)
    for _ in range(count):
        x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        (urn(x) - x[:, :2]).pow(2).mean().backward()
        optimizer.step()


@pytest.fixture
def short_strips(monkeypatch):
    """Strips of two rows, so that the passes over W meet strip ends."""
    monkeypatch.setattr(optim, "STRIP", 40)


@pytest.mark.usefixtures("short_strips")
@pytest.mark.parametrize("name", list(BASES))
def test_without_a_penalty_it_is_torchs_optimiser(name):
    kind, options = BASES[name]
    ours, theirs = network(), network()
    steps(ours, Proximal(ours, name.split()[0], 0.02, **options))
    steps(theirs, kind([theirs.W, theirs.b], 0.02, **options))
    assert torch.allclose(ours.W, theirs.W, rtol=1e-10, atol=1e-14)
    assert torch.allclose(ours.b, theirs.b, rtol=1e-10, atol=1e-14)
    assert not torch.allclose(ours.W, network().W, atol=1e-3)


@pytest.mark.usefixtures("short_strips")
@pytest.mark.parametrize("name", list(BASES))
@pytest.mark.parametrize("length", [0.0, 0.3])
def test_a_step_is_torchs_step_and_then_the_soft_threshold(name, length):
    """The decoupled threshold is lr * coefficient whatever the base; coefficient = weight + length * distance."""
    kind, options = BASES[name]
    lr, ramp = 0.02, 0.5
    penalty = Penalty("prox_decoupled", weight=2.0, synapse_length=length, beta=2.0)
    ours, theirs = network(), network()
    optimizer = Proximal(ours, name.split()[0], lr, penalty=penalty, **options)
    optimizer.ramp = ramp
    other = kind([theirs.W, theirs.b], lr, **options)
    coefficient = torch.as_tensor(penalty.coefficient(ours.layout, slice(None))).double() * ramp
    generator = torch.Generator().manual_seed(9)
    for _ in range(4):
        x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
        for urn, o in ((ours, optimizer), (theirs, other)):
            o.zero_grad()
            (urn(x) - x[:, :2]).pow(2).mean().backward()
            o.step()
        theirs.W.data.copy_(theirs.W.data.sign() * (theirs.W.data.abs() - lr * coefficient).clamp(min=0))
        assert torch.allclose(ours.W, theirs.W, rtol=1e-6, atol=1e-9)
        assert torch.allclose(ours.b, theirs.b, rtol=1e-6, atol=1e-9)  # biases carry no penalty
    zeros = int((ours.W.data[:, :16] == 0).sum())
    assert zeros > 5 and zeros == int((theirs.W.data[:, :16] == 0).sum())


@pytest.mark.usefixtures("short_strips")
@pytest.mark.parametrize("base", ["adam", "adamw"])
def test_prox_adam_thresholds_in_adams_metric(base):
    """ProxGen: the threshold is lr * coefficient / (sqrt(v_hat) + eps), with the second moment of this very step."""
    lr, weight, eps = 0.01, 0.05, 1e-3
    ours, theirs = network(), network()
    optimizer = Proximal(ours, base, lr, penalty=Penalty("prox_adam", weight=weight), eps=eps)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[base]
    other = kind([theirs.W, theirs.b], lr, eps=eps, weight_decay=0.0)
    generator = torch.Generator().manual_seed(9)
    for step in range(1, 5):
        x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
        for urn, o in ((ours, optimizer), (theirs, other)):
            o.zero_grad()
            (urn(x) - x[:, :2]).pow(2).mean().backward()
            o.step()
        v_hat = other.state[theirs.W]["exp_avg_sq"] / (1 - 0.999**step)
        threshold = lr * weight / (v_hat.sqrt() + eps)
        theirs.W.data.copy_(theirs.W.data.sign() * (theirs.W.data.abs() - threshold).clamp(min=0))
        assert torch.allclose(ours.W, theirs.W, rtol=1e-9, atol=1e-12)
    assert int((ours.W.data[:, :16] == 0).sum()) > 5


def test_prox_adam_under_sgd_is_the_decoupled_one():
    one, two = network(), network()
    steps(one, Proximal(one, "sgd", 0.02, penalty=Penalty("prox_adam", weight=0.2)))
    steps(two, Proximal(two, "sgd", 0.02, penalty=Penalty("prox_decoupled", weight=0.2)))
    assert torch.equal(one.W, two.W)


@pytest.mark.parametrize("name", list(BASES))
def test_the_subgradient_enters_the_gradient(name):
    kind, options = BASES[name]
    penalty = Penalty("subgradient", weight=0.1, synapse_length=0.2)
    ours, theirs = network(), network()
    steps(ours, Proximal(ours, name.split()[0], 0.02, penalty=penalty, **options))
    other = kind([theirs.W, theirs.b], 0.02, **options)
    coefficient = torch.as_tensor(penalty.coefficient(theirs.layout, slice(None))).double()
    generator = torch.Generator().manual_seed(9)
    for _ in range(5):
        x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
        other.zero_grad()
        ((theirs(x) - x[:, :2]).pow(2).mean() + (theirs.W.abs() * coefficient).sum()).backward()
        other.step()
    assert torch.allclose(ours.W, theirs.W, rtol=1e-6, atol=1e-9)
    assert not (ours.W.data[:, :16] == 0).any()  # the paper's penalty gives no exact zeros


@pytest.mark.usefixtures("short_strips")
@pytest.mark.parametrize("name", list(BASES))
def test_fixed_rows_keep_their_bits(name):
    frozen = (0, 1, 2, 3, 5, 6, 10, 13)
    urn = network(frozen)
    before = copy.deepcopy(urn)
    optimizer = Proximal(urn, name.split()[0], 0.05, penalty=Penalty(weight=0.5), **BASES[name][1])
    optimizer.state[urn.W] = {"step": torch.tensor(3.0)} | {  # even where an older task left its moments behind
        key: torch.ones_like(urn.W) for key in optim.BASES[optimizer.base].moments(optimizer.param_groups[0])
    }
    steps(urn, optimizer)
    rows = urn.frozen
    assert torch.equal(urn.W.data[rows], before.W.data[rows]) and torch.equal(urn.b.data[rows], before.b.data[rows])
    free = ~rows
    assert (urn.W.data[free][:, :16] != before.W.data[free][:, :16]).any(1).all()


def test_absent_synapses_stay_absent():
    mask = torch.rand(18, 18) < 0.5
    urn = network(mask=mask)
    steps(urn, Proximal(urn, "adam", 0.05, weight_decay=0.1))
    assert not urn.W.data[~mask].any()
    assert urn.W.data[:, :16][mask[:, :16]].all()


@pytest.mark.parametrize("base", ["adam", "sgd"])
def test_outputs_that_do_not_send_never_do(base):
    """Through the literal rule, too, the synapses of a mute output get no gradient: nothing would put them back."""
    urn = network()
    optimizer = Proximal(urn, base, 0.05, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(6, 4, dtype=torch.float64)
        logits, activity = with_costs(urn, x, None, (0.0, 0.1, 0.1, 0.1), literal=True)
        (logits.pow(2).mean() + activity).backward()
        assert not urn.W.grad[:, 16:].any() and urn.W.grad[:, :16].any()
        optimizer.step()
        assert not urn.W.data[:, 16:].any()


def test_a_penalty_may_be_a_whole_number():
    """Penalty(weight=1) is as good as 1.0."""
    one, two = network(), network()
    steps(one, Proximal(one, "adam", 0.01, penalty=Penalty(weight=1)))
    steps(two, Proximal(two, "adam", 0.01, penalty=Penalty(weight=1.0)))
    assert torch.equal(one.W, two.W)


def test_no_ramp_no_penalty():
    one, two = network(), network()
    optimizer = Proximal(one, "adam", 0.01, penalty=Penalty(weight=5.0))
    optimizer.ramp = 0.0
    steps(one, optimizer)
    steps(two, Proximal(two, "adam", 0.01))
    assert torch.equal(one.W, two.W)


def test_the_prices_follow_the_layout():
    """Compaction and the next task bring another layout; synaptic lengths must be those of the new one."""
    penalty = Penalty(weight=0.2, synapse_length=0.5)
    urn = network()
    optimizer = Proximal(urn, "sgd", 0.02, penalty=penalty)
    steps(urn, optimizer, 1)
    order = torch.cat([torch.arange(4), torch.randperm(12) + 4, torch.arange(16, 18)])
    for target in (urn, other := network()):
        target.set_parameters(
            network().layout.take(order), network().W.data[order][:, order].clone(), torch.zeros(18).double()
        )
    optimizer.param_groups[0]["params"] = [urn.W, urn.b]
    steps(urn, optimizer, 2)
    steps(other, Proximal(other, "sgd", 0.02, penalty=penalty), 2)
    assert torch.equal(urn.W, other.W)


def test_a_closure_is_called_with_gradients():
    urn = network()
    optimizer = Proximal(urn, "sgd", 0.02)
    x = torch.randn(6, 4, dtype=torch.float64)

    def closure() -> float:
        optimizer.zero_grad()
        loss = urn(x).pow(2).mean()
        loss.backward()
        return float(loss.detach())

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


def test_an_unknown_base():
    with pytest.raises(ValueError, match="one of adam, adamw, sgd, not 'lion'"):
        Proximal(network(), "lion")


@pytest.mark.parametrize("base", ["adam", "sgd"])
def test_moments_of_zero_weights_are_factored_to_a_row_and_a_column(base):
    urn = network(frozen=(1,))
    optimizer = Proximal(urn, base, 0.01, momentum=0.9, penalty=Penalty("prox_decoupled", weight=0.5))
    steps(urn, optimizer)
    zero, state = urn.W.data == 0, optimizer.state[urn.W]
    before = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    assert 0.1 < float(zero.double().mean()) < 0.9
    optimizer.factor_moments()
    assert set(optimizer.factored) == set(before)
    for name, old in before.items():
        outer = optimizer.factored[name]
        new = state[name]
        assert torch.equal(new[~zero], old[~zero])
        if name == "exp_avg_sq":
            assert outer is not None
            estimate = old.sum(1)[:, None] * old.sum(0) / old.sum()
            torch.testing.assert_close(new[zero], estimate[zero])
            assert torch.equal(
                new[zero], torch.outer(*outer)[zero]
            )  # what a checkpoint keeps of it gives the same bits
            assert bool((new[1] == 0).all())  # a frozen row has never been touched
        else:
            assert outer is None and not bool(new[zero].any())
    steps(urn, optimizer, 1)
    assert optimizer.factored == {}  # valid until the next step


def test_moments_that_are_all_zero_are_factored_to_zero():
    urn = network()
    optimizer = Proximal(urn, "adam", 0.01)
    optimizer.factor_moments()
    assert optimizer.factored == {}
    optimizer.state[urn.W]["exp_avg_sq"] = torch.zeros_like(urn.W)
    urn.W.data[0] = 0
    optimizer.factor_moments()
    assert not bool(optimizer.state[urn.W]["exp_avg_sq"].any())


# --- deferred steps -----------------------------------------------------------------------------------------------

SUPPORT = ((4, 10, 0, 4), (4, 7, 4, 10), (16, 18, 0, 10))
DEFERRING = {
    "adam": ("adam", Penalty("prox_adam", weight=0.01), {}),
    "adam, lengths": ("adam", Penalty("prox_adam", weight=0.01, synapse_length=0.01), {}),
    "adam, decoupled": ("adam", Penalty("prox_decoupled", weight=0.05), {}),
    "adamw": ("adamw", Penalty("prox_adam", weight=0.01), {"weight_decay": 0.2}),
    "sgd": ("sgd", Penalty("prox_decoupled", weight=0.05), {}),
    "sgd with momentum": ("sgd", Penalty("prox_decoupled", weight=0.05, synapse_length=0.02), {"momentum": 0.9}),
    "no coefficient": ("adam", Penalty(), {}),
}


def train_within(name: str, gradient_support: tuple | None, count: int = 20) -> tuple[URN, Proximal]:
    """200 steps everywhere, then `count` whose gradient is zero outside of SUPPORT, within `gradient_support`."""
    base, penalty, options = DEFERRING[name]
    urn = network(frozen=(0, 1, 2, 3))
    optimizer = Proximal(urn, base, 1e-3, penalty=penalty, **options)
    generator = torch.Generator().manual_seed(2)
    inside = torch.zeros(18, 18, dtype=torch.bool)
    for top, bottom, left, right in SUPPORT:
        inside[top:bottom, left:right] = True
    for step in range(200 + count):
        urn.W.grad, urn.b.grad = (
            torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (urn.W, urn.b)
        )
        if step >= 200:
            urn.W.grad *= inside
            urn._supports = {gradient_support}
        optimizer.ramp = min(1.0, step / 210)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 400)
        optimizer.step()
    return urn, optimizer


@pytest.mark.usefixtures("short_strips")
@pytest.mark.parametrize("name", list(DEFERRING))
def test_waiting_and_catching_up_is_stepping(name):
    """Inside of the support to the last bit; outside to what the metric changes in 20 steps, and to the same zeros."""
    (whole, _), (urn, optimizer), (before, _) = (
        train_within(name, None),
        train_within(name, SUPPORT),
        train_within(name, None, 0),
    )
    inside = torch.zeros(18, 18, dtype=torch.bool)
    for top, bottom, left, right in SUPPORT:
        inside[top:bottom, left:right] = True
    assert torch.equal(urn.W[inside], whole.W[inside]) and torch.equal(urn.b, whole.b)
    assert torch.equal(urn.W[~inside], before.W[~inside])
    assert not torch.equal(whole.W[~inside], before.W[~inside]) or name == "sgd"
    optimizer.apply_deferred()
    assert torch.equal(urn.W[inside], whole.W[inside]) and torch.equal(urn.W[:4], before.W[:4])
    moved = (whole.W - before.W)[~inside].abs().max()
    assert (urn.W - whole.W).abs().max() <= 0.03 * moved
    assert ((urn.W == 0) == (whole.W == 0)).float().mean() > 0.98
    after = urn.W.detach().clone()
    optimizer.apply_deferred()
    assert torch.equal(urn.W, after)


def test_a_new_reach_does_not_forget_what_waits():
    urn, optimizer = train_within("adam", SUPPORT)
    other, known = train_within("adam", SUPPORT)
    known.apply_deferred()
    for network_, proximal in ((urn, optimizer), (other, known)):
        network_.W.grad = torch.ones_like(network_.W)
        network_._supports = {None}
        proximal.step()
    assert torch.equal(urn.W, other.W)


@pytest.mark.parametrize(
    ("penalty", "options"),
    [(Penalty("subgradient", weight=0.01), {}), (Penalty("prox_adam", weight=0.01), {"weight_decay": 0.1})],
    ids=["subgradient", "decay in the gradient"],
)
def test_where_a_weight_without_gradient_does_more_nothing_waits(penalty, options):
    urn = network()
    optimizer = Proximal(urn, "adam", 1e-2, penalty=penalty, **options)
    urn.W.grad, urn.b.grad = torch.zeros_like(urn.W), torch.zeros_like(urn.b)
    before = urn.W.detach().clone()
    urn._supports = {SUPPORT}
    optimizer.step()
    assert (urn.W[10:16, 4:16] != before[10:16, 4:16]).all()


def test_absent_synapses_stay_absent_while_others_wait():
    mask = torch.rand(18, 18, generator=torch.Generator().manual_seed(4)) < 0.6
    urn = network(mask=mask)
    optimizer = Proximal(urn, "adam", 1e-2, penalty=Penalty("prox_adam", weight=1e-4))
    for gradient_support in (None, None, SUPPORT, SUPPORT):
        urn.W.grad, urn.b.grad = torch.ones_like(urn.W), torch.ones_like(urn.b)
        urn._supports = {gradient_support}
        optimizer.step()
    before = urn.W.detach().clone()
    optimizer.apply_deferred()
    assert not urn.W[~mask].any() and not torch.equal(urn.W, before)
