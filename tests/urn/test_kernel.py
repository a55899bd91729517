"""The fast iteration against the update rule to the letter, in float64: outputs, activity and gradients.

`URN.states` is the reference (checked by hand arithmetic in test_network.py); `with_costs` multiplies only
the blocks that matter. Both must agree over rules, output activations, I, frozen neurons, inactive sets and sequences.
"""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from forward_passes import with_costs

from urn.kernel import add_to_block, block
from urn.layout import Layout
from urn.network import URN
from urn.plan import as_index, make_plan
from urn.row_partition import RowPartition
from urn.update_rules import UPDATES

S, D_IN, B = 15, 3, 6
COSTS = (0.0, 0.3, 0.5, 0.7, 0.11, 0.13)
FIXED = ("none", "hidden", "still inputs", "still inputs and hidden", "firing inputs and hidden", "all")


def scattered(generator: torch.Generator) -> Layout:
    """Two ports and an input port whose indices are neither contiguous nor in order."""
    order = torch.randperm(S, generator=generator)
    ports = {"a": order[D_IN : D_IN + 2], "b": order[D_IN + 2 : D_IN + 5]}
    return Layout(torch.zeros(S, 3), order[:D_IN], ports)


def network(update: str, output: str, I: int, fixed_set: str, contiguous: bool) -> URN:
    generator = torch.Generator().manual_seed(I)
    layout = Layout.flat(S, D_IN, {"a": 2, "b": 3}) if contiguous else scattered(generator)
    urn = URN(layout, I, update, output, gain=1.5, generator=generator, dtype=torch.float64)
    W, b = urn.W.data.clone(), torch.randn(S, generator=generator, dtype=torch.float64) * 0.3
    hidden = layout.hidden
    frozen = torch.zeros(S, dtype=torch.bool)
    if "hidden" in fixed_set:
        frozen[hidden[[0, 2, 3]]] = True
    if "inputs" in fixed_set:
        frozen[layout.inputs] = True
    if fixed_set == "all":
        frozen[:] = True
    else:
        W[frozen[:, None] & ~frozen] = 0  # nothing free writes into a frozen neuron
    if "still" in fixed_set:
        W[layout.inputs] = 0
        b[layout.inputs] = torch.tensor([0.0, -1.0, -0.5], dtype=torch.float64)
    if "firing" in fixed_set:
        b[layout.inputs[0]] = 0.4
    if fixed_set == "hidden":  # with free inputs the frozen neurons read one another only, so they need a bias
        b[hidden[[0, 2, 3]]] = 0.2
    urn.set_parameters(layout, W, b, frozen)
    return urn


def inactive_sets(urn: URN, x: torch.Tensor, share: float) -> torch.Tensor:
    """(I, S): a random part of the neurons that are at rest at each iteration for all of x."""
    rest = torch.stack([(N.abs() == 0).all(0) for N in urn.states(x)[: urn.iterations]])
    return rest & (torch.rand(rest.shape) < share)


def literal(urn: URN, x: torch.Tensor, port: str, costs) -> tuple[torch.Tensor, torch.Tensor]:
    states = urn.states(x, port)
    counted = [i for i in urn.layout.hidden.tolist() if not urn.frozen[i]]
    activity = sum((costs[k] * states[k][:, counted].sum() for k in range(1, urn.iterations)), torch.zeros(()).double())
    return states[-1][:, urn.layout.ports[port]], activity


def gradients(urn: URN, function, x, port, costs):
    urn.zero_grad()
    logits, activity = function(urn, x, port, costs)
    (logits.pow(2).sum() + logits[:, 0].sum() + activity).backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in (urn.W, urn.b)]
    return logits.detach(), activity.detach(), *grads


def check(urn: URN, x: torch.Tensor, port: str, tag) -> None:
    costs = COSTS[: urn.iterations + 1]
    logits, activity, dW, db = gradients(urn, with_costs, x, port, costs)
    expected, expected_activity, eW, eb = gradients(urn, literal, x, port, costs)
    close = {"rtol": 1e-10, "atol": 1e-12}
    assert torch.allclose(logits, expected, **close), tag
    assert torch.allclose(activity, expected_activity, **close), tag
    trains = ~urn.frozen
    trains[urn.layout.ports[port]] = True
    senders = torch.ones(S, dtype=torch.bool)
    for index in urn.layout.ports.values():
        senders[index] = False  # output neurons send nothing: `restore_frozen` keeps these columns at zero
    rows = trains & ~urn.frozen
    assert torch.allclose(dW[rows][:, senders], eW[rows][:, senders], **close), tag
    assert torch.allclose(db[rows], eb[rows], **close), tag
    assert not dW[:, ~senders].any(), tag
    assert not dW[~trains].any() and not db[~trains].any(), tag


@pytest.mark.parametrize("I", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("update", list(UPDATES))
def test_equals_the_literal_rule(update, output, I):
    generator = torch.Generator().manual_seed(7)
    firing = 0
    ways = [(True, False), (False, True)] if output == "linear" else [(False, False), (True, True)]
    sequences = (False, True) if UPDATES[update].residual_input else (False,)
    for fixed_set, (contiguous, with_inactive), sequence in itertools.product(FIXED, ways, sequences):
        urn = network(update, output, I, fixed_set, contiguous)
        shape = (B, I, D_IN) if sequence else (B, D_IN)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        port = "ab"[torch.randint(2, (), generator=generator)]
        if with_inactive:
            urn.set_inactive(inactive_sets(urn, x, 0.7))
        check(urn, x, port, (fixed_set, contiguous, with_inactive, sequence, port))
        firing += int(urn(x, port).ne(0).sum())
    assert firing > 50  # the comparison is about something


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("fixed_set", FIXED)
@pytest.mark.parametrize("I", [1, 2, 5])
def test_every_readout_equals_the_literal_rule(update, output, fixed_set, I):
    urn = network(update, output, I, fixed_set, contiguous=True)
    x = torch.randn(B, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(I, B, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    free = ~urn.frozen
    readouts, activity = with_costs(urn, x, "b", COSTS, every=True)
    expected = torch.stack(urn.readouts(x, "b"))
    torch.testing.assert_close(readouts, expected, rtol=0, atol=1e-12)
    oracle = (expected * weights).sum() + literal(urn, x, "b", COSTS)[1]
    want = torch.autograd.grad(oracle, [urn.W, urn.b])
    got = torch.autograd.grad((readouts * weights).sum() + activity, [urn.W, urn.b])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g[free], w[free], rtol=0, atol=1e-11)


def test_inactive_neurons_are_really_left_out():
    """A neuron that is declared inactive but is active changes the answer: the caller is responsible for the sets."""
    urn = network("plain", "linear", 4, "none", True)
    x = torch.randn(B, D_IN, dtype=torch.float64)
    before = urn(x, "a")
    active = (urn.states(x)[2] > 0).any(0)
    active[urn.layout.inputs] = False
    inactive = torch.zeros(4, S, dtype=torch.bool)
    inactive[2] = active
    urn.set_inactive(inactive)
    assert not torch.allclose(urn(x, "a"), before)
    urn.set_inactive(None)
    assert torch.equal(urn(x, "a"), before)


def test_inactive_sets_may_differ_from_level_to_level():
    urn = network("residual_both", "linear", 5, "still inputs", False)
    x = torch.randn(B, D_IN, dtype=torch.float64)
    inactive = inactive_sets(urn, x, 1.0)
    widths = {int((~row).sum()) for row in inactive[1:]}
    assert len(widths) > 1
    urn.set_inactive(inactive)
    check(urn, x, "a", "levels")
    assert not urn._plan("a").uniform


def test_two_forward_passes_in_one_loss():
    """Distillation, EWC and replay do this; each gradient needs memory of its own."""
    urn = network("residual_both", "linear", 4, "still inputs and hidden", True)
    x1, x2 = torch.randn(B, D_IN).double(), torch.randn(B + 1, D_IN).double()

    def loss(x):
        return urn(x, "a").pow(2).sum()

    (g1,) = torch.autograd.grad(loss(x1), urn.W)
    (g2,) = torch.autograd.grad(loss(x2), urn.W)
    assert not torch.equal(g1, g2)
    (loss(x1) + loss(x2)).backward()
    assert torch.allclose(urn.W.grad, g1 + g2, rtol=1e-12)


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("fixed_set", FIXED)
def test_memory_that_is_used_again_holds_the_same_gradient(update, fixed_set):
    """Steps through both ports in turn, with weights that change; the second network takes fresh memory."""
    for contiguous, I in ((True, 4), (True, 2), (True, 1), (False, 3)):
        again, fresh = (network(update, "linear", I, fixed_set, contiguous) for _ in range(2))
        again.reuse_gradient_memory = True
        places = set()
        for step in range(6):
            x, port = torch.randn(B, D_IN).double(), "ab"[step // 2 % 2]
            for urn in (again, fresh):
                urn.W.grad = urn.b.grad = None
                logits, activity = with_costs(urn, x, port, COSTS[: I + 1])
                (logits.pow(2).sum() + activity).backward()
                urn.W.data -= 1e-4 * urn.W.grad
            assert torch.equal(again.W.grad, fresh.W.grad) and torch.equal(again.b.grad, fresh.b.grad)
            places.add(again.W.grad.data_ptr())
        assert len(places) == 1


def test_gradients_against_finite_differences():
    urn = network("residual_both", "relu", 3, "still inputs and hidden", False)
    x = torch.randn(4, D_IN, dtype=torch.float64)
    costs = COSTS[:4]

    def loss() -> torch.Tensor:
        logits, activity = with_costs(urn, x, "b", costs)
        return logits.pow(2).sum() + activity

    loss().backward()
    step, found = 1e-6, 0
    for i, j in itertools.product(urn.layout.hidden.tolist()[1:5] + urn.layout.ports["b"].tolist(), range(S)):
        if urn.frozen[i] or any(j in index for index in urn.layout.ports.values()):
            continue
        with torch.no_grad():
            before = urn.W.data[i, j].item()
            urn.W.data[i, j] = before + step
            up = loss()
            urn.W.data[i, j] = before - step
            down = loss()
            urn.W.data[i, j] = before
        slope = float(up - down) / (2 * step)
        assert slope == pytest.approx(float(urn.W.grad[i, j]), abs=1e-6)
        found += slope != 0
    assert found > 10


def test_an_input_that_needs_a_gradient_gets_one():
    """The attribution of an answer to pixels goes through the literal path."""
    urn = network("residual_both", "linear", 3, "firing inputs and hidden", True)
    x = torch.randn(B, D_IN, dtype=torch.float64, requires_grad=True)
    logits, activity = with_costs(urn, x, "a", COSTS[:4])
    fast, fast_activity = with_costs(urn, x.detach(), "a", COSTS[:4])
    assert torch.allclose(logits, fast) and torch.allclose(activity, fast_activity)
    assert activity.item() > 0
    (slope,) = torch.autograd.grad(logits.sum(), x)
    step = torch.zeros_like(x)
    step[2, 1] = 1e-6
    with torch.no_grad():
        difference = (urn(x + step, "a") - urn(x - step, "a")).sum() / 2e-6
    assert float(slope[2, 1]) == pytest.approx(float(difference), abs=1e-6)


def test_frozen_neurons_never_read_a_free_one():
    """A free neuron at inf or NaN leaves the states of frozen neurons finite, although 0 * NaN is NaN."""
    urn = network("residual_both", "linear", 4, "still inputs and hidden", True)
    free = [i for i in urn.layout.hidden.tolist() if not urn.frozen[i]]
    x = torch.randn(B, D_IN, dtype=torch.float64)
    found = {}

    class Recorder:
        def update(self, level, neurons, N):
            everything = torch.zeros(N.shape[0], S, dtype=N.dtype)
            everything[:, neurons] = N
            found[level] = everything

    urn.tracker = Recorder()
    urn(x, "a")
    before = {level: N[:, urn.frozen].clone() for level, N in found.items()}
    urn.W.data[free] = float("nan")
    urn.b.data[free] = float("inf")
    urn(x, "a")
    assert list(found) == [1, 2, 3]
    for level, N in found.items():
        assert N[:, free].isnan().all()
        assert torch.equal(N[:, urn.frozen], before[level])
    assert before[3].abs().sum() > 0


def test_only_training_is_tracked():
    urn = network("plain", "linear", 3, "none", True)
    levels = []

    class Recorder:
        def update(self, level, neurons, N):
            levels.append(level)

    urn.tracker = Recorder()
    x = torch.randn(B, D_IN, dtype=torch.float64)
    with torch.no_grad():
        urn(x, "a")
    assert levels == []
    urn(x, "a")
    assert levels == [1, 2]
    urn.outputs_send = True
    urn(x, "a")
    assert levels == [1, 2, 1, 2]


def test_relabelling_the_neurons_changes_nothing():
    """Outputs, activity and gradients follow the neurons to their new indices."""
    for update, fixed_set in itertools.product(UPDATES, FIXED[:-1]):
        urn = network(update, "linear", 4, fixed_set, True)
        order = torch.randperm(S)
        other = copy.deepcopy(urn)
        other.set_parameters(
            urn.layout.take(order), urn.W.data[order][:, order].clone(), urn.b.data[order], urn.frozen[order]
        )
        x = torch.randn(B, D_IN, dtype=torch.float64)
        one = gradients(urn, with_costs, x, "b", COSTS[:5])
        two = gradients(other, with_costs, x, "b", COSTS[:5])
        assert torch.allclose(one[0], two[0], rtol=1e-10) and torch.allclose(one[1], two[1], rtol=1e-10)
        assert torch.allclose(one[2][order][:, order], two[2], rtol=1e-9, atol=1e-12)
        assert torch.allclose(one[3][order], two[3], rtol=1e-9, atol=1e-12)


# --- blocks of W --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[2, 3, 4], [4, 1, 2], []])
@pytest.mark.parametrize("cols", [[0, 1], [5, 0, 3], []])
def test_blocks(rows, cols):
    device = torch.device("cpu")
    rows, cols = torch.tensor(rows, dtype=torch.long), torch.tensor(cols, dtype=torch.long)
    r, c = as_index(rows, device), as_index(cols, device)
    W = torch.randn(6, 6)
    assert torch.equal(block(W, r, c), W[rows[:, None], cols])
    left, right = torch.randn(3, len(rows)), torch.randn(3, len(cols))
    expected = W.clone()
    expected[rows[:, None], cols] += left.T @ right
    add_to_block(W, r, c, left, right)
    assert torch.allclose(W, expected)


def test_rising_indices_become_a_view():
    device = torch.device("cpu")
    assert as_index(torch.tensor([3, 4, 5]), device) == slice(3, 6)
    assert as_index(torch.tensor([], dtype=torch.long), device) == slice(0, 0)
    assert isinstance(as_index(torch.tensor([3, 5]), device), torch.Tensor)
    assert isinstance(as_index(torch.tensor([4, 3]), device), torch.Tensor)


@pytest.mark.parametrize("I", [1, 2, 5])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("fixed_set", FIXED)
@pytest.mark.parametrize("contiguous", [True, False])
def test_bfloat16_products_round_the_factors_alone(update, fixed_set, contiguous, I):
    """Against float64 within what 8 bits of mantissa allow, over samples enough for those whose neurons fall on the
    other side of zero; sums, gradients and answers are not bfloat16."""
    exact = network(update, "linear", I, fixed_set, contiguous)
    urn = network(update, "linear", I, fixed_set, contiguous).float()
    x = torch.randn(500, D_IN, generator=torch.Generator().manual_seed(1))
    plain = gradients(urn, with_costs, x, "b", COSTS[: I + 1])
    urn.multiply = torch.bfloat16
    weights = gradients(urn, with_costs, x, "b", COSTS[: I + 1])
    want = gradients(exact, with_costs, x.double(), "b", COSTS[: I + 1])
    for got, true in zip(weights, want, strict=True):
        assert got.dtype == torch.float32
        assert float((got - true).norm()) <= 0.03 * float(true.norm()) + 1e-6
    assert any(not torch.equal(a, b) for a, b in zip(weights, plain, strict=True))  # they are rounded, then
    with torch.no_grad():
        assert torch.equal(urn(x, "b"), plain[0])  # an answer is float32, to the bit


@pytest.mark.parametrize(("recycle", "every"), [(True, False), (True, True), (False, True)])
def test_bfloat16_products_under_all_ways_to_read(recycle, every):
    urn = network("residual_both", "linear", 4, FIXED[-1], contiguous=True).float()
    x = torch.randn(B, D_IN, generator=torch.Generator().manual_seed(1))
    found = []
    for multiply in (None, torch.bfloat16):
        urn.multiply, urn.reuse_gradient_memory = multiply, recycle
        for _ in range(2):  # the second writes over the gradient of the first
            urn.zero_grad()
            logits, activity = with_costs(urn, x, "b", COSTS[:5], every=every)
            (logits.pow(2).sum() + activity).backward()
            assert urn.W.grad is not None
            found.append((logits.detach(), urn.W.grad.clone()))
    for got, want in zip(found[3], found[1], strict=True):
        assert float((got - want).norm()) <= 0.03 * float(want.norm())
    assert torch.equal(found[2][1], found[3][1])


@pytest.mark.parametrize(("second", "nested"), [((3, 6), True), ((4, 8), False)])
def test_the_gradients_support_is_known_for_nested_sets_alone(second, nested):
    """Inputs 0 to 2, port 8 and 9; neurons 3 to 6 are computed at l = 1, those of `second` at l = 2."""
    computed = torch.zeros(3, 10, dtype=torch.bool)
    computed[1, 3:7], computed[2, second[0] : second[1]] = True, True
    plan = make_plan(
        inputs=torch.arange(3),
        port=torch.tensor([8, 9]),
        frozen=torch.zeros(10, dtype=torch.bool),
        computed=list(computed),
        residual_input=False,
        residual_output=True,
        linear_output=True,
        like=torch.zeros(1),
        partition=RowPartition.whole(10),
    )
    assert (plan.gradient_support is not None) == nested
