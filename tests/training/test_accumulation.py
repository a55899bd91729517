"""The store of claimed neurons: who owns what, what a task starts from, what it leaves behind, and the files."""

from __future__ import annotations

import io
import math

import pytest
import torch

from nesa.errors import RunFailed, UserError
from nesa.neuron_owner import FREE, INPUT, PORT
from nesa.training.accumulation import Accumulation, Dynamics
from urn.layout import Layout
from urn.network import URN
from urn.surgery import keep_only

RULE = Dynamics(4, "residual_both", "linear")
PORTS = {"a": 2, "b": 3, "c": 2}
D_IN, S = 4, 31  # 20 hidden neurons


def accumulation(**options) -> Accumulation:
    return Accumulation(Layout.flat(S, D_IN, PORTS), **options)


def learn(store: Accumulation, task: str, keep: int = 6, rule: Dynamics = RULE, **extra):
    """A worker whose weights a pretended training has moved, pruned to `keep` free hidden neurons, and claimed."""
    generator = torch.Generator().manual_seed(len(store.claims))
    task_network, index = store.task_network(task, rule, generator)
    free = ~task_network.frozen
    task_network.W.data[free] += 0.05 * torch.randn(int(free.sum()), task_network.S, generator=generator)
    task_network.b.data[free] += 0.1 * torch.rand(int(free.sum()), generator=generator)
    task_network.restore_frozen()
    hidden = task_network.layout.hidden
    drop = hidden[free[hidden]][keep:]
    kept = torch.tensor([i for i in range(task_network.S) if i not in set(drop.tolist())])
    keep_only(task_network, kept)
    return store.claim(task, rule, task_network, index[kept], **extra)


def probe(n: int = 9) -> torch.Tensor:
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(1))


# --- ownership -------------------------------------------------------------------------------------------------------


def test_neurons_at_the_start():
    store = accumulation()
    assert store.owner.dtype == torch.int16
    assert store.owner[:D_IN].eq(INPUT).all() and store.owner[S - 7 :].eq(PORT).all()
    assert store.free.tolist() == list(range(4, 24)) and store.claimed.tolist() == []
    assert not store.full()[0].any() and not store.full()[1].any()


def test_a_claim_takes_hidden_neurons_only():
    store = accumulation()
    learn(store, "a")
    assert store.owner[4:10].eq(0).all() and store.owner[10:24].eq(FREE).all()
    learn(store, "b")
    assert store.owner[10:16].eq(1).all() and store.claimed.tolist() == list(range(4, 16))
    assert store.owner[:D_IN].eq(INPUT).all() and store.owner[S - 7 :].eq(PORT).all()


@pytest.mark.parametrize("inputs_receive", [True, False])
def test_nothing_free_or_newer_ever_writes_into_what_is_claimed(inputs_receive):
    store = accumulation(inputs_receive=inputs_receive)
    rows: list[torch.Tensor] = []
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    for k, task in enumerate(PORTS):
        learn(store, task)
        W, b = store.full()
        owner = store.owner
        for earlier, (old_W, old_b) in zip(rows, before, strict=True):
            assert torch.equal(W[earlier], old_W) and torch.equal(b[earlier], old_b)
        final = torch.cat([store.layout.inputs, store.claimed])
        assert not W[final][:, owner == FREE].any() and not W[:, owner == PORT].any()
        for j in range(k):
            assert not W[owner == j][:, owner > j].any()
        assert not W[store.layout.inputs][:, owner > 0].any()
        assert bool(W[store.layout.inputs].any()) is inputs_receive
        assert W[owner == k].any() and (k == 0 or W[owner == k][:, (owner >= 0) & (owner < k)].any())
        rows.append(final)
        before.append((W[final], b[final]))


def test_the_rows_of_the_input_neurons_are_final_after_the_first_task():
    store = accumulation()
    learn(store, "a")
    task_network, index = store.task_network("b", RULE)
    assert task_network.frozen[:D_IN].all() and index[:D_IN].tolist() == [0, 1, 2, 3]
    assert torch.equal(task_network.W.data[:D_IN][:, :10], store.full()[0][:D_IN][:, :10])
    assert task_network.W.data[:D_IN].any() and not task_network.W.data[:D_IN, 10:].any()


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_first_worker_is_he_normal_and_all_free():
    store = Accumulation(Layout.flat(600, 20, {"a": 5}), gain=0.5)
    task_network, index = store.task_network("a", RULE, torch.Generator().manual_seed(2))
    assert index.tolist() == list(range(600)) and not task_network.frozen.any()
    assert float(task_network.W.data[:, :595].std()) == pytest.approx(0.5 * math.sqrt(2 / 600), rel=0.02)
    assert not task_network.W.data[:, 595:].any() and not task_network.b.any()
    still, _ = Accumulation(Layout.flat(600, 20, {"a": 5}), inputs_receive=False).task_network("a", RULE)
    assert still.frozen.tolist() == [True] * 20 + [False] * 580 and not still.W.data[:20].any()


def test_a_later_worker_reads_everything_and_writes_into_nothing_fixed():
    store = accumulation()
    learn(store, "a")
    task_network, index = store.task_network("b", RULE, torch.Generator().manual_seed(2))
    frozen = task_network.frozen
    assert index.tolist() == [*range(24), 26, 27, 28]  # inputs, claimed, free, its own port, no other
    assert index[frozen].tolist() == list(range(10))
    W, b = store.full()
    assert torch.equal(task_network.W.data[frozen][:, frozen], W[:10, :10]) and torch.equal(
        task_network.b.data[frozen], b[:10]
    )
    assert not task_network.W.data[frozen][:, ~frozen].any()
    assert (task_network.W.data[~frozen][:, :24] != 0).all() and not task_network.b.data[~frozen].any()
    assert list(task_network.layout.ports) == ["b"]
    task_network.W.data.fill_(9.0)
    assert torch.equal(store.full()[0], W)  # copies: nothing that training does reaches the store


def test_a_worker_is_drawn_from_the_generator():
    store = accumulation()
    draws = [store.task_network("a", RULE, torch.Generator().manual_seed(seed))[0].W for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_claimed_task_is_not_trained_again():
    store = accumulation()
    learn(store, "a")
    with pytest.raises(UserError, match="task 'a' has been learned already, and its answers are final"):
        store.task_network("a", RULE)


# --- claims that are refused -----------------------------------------------------------------------------------------


def refused(store: Accumulation, task_network: URN, index: torch.Tensor, message: str, task: str = "b") -> None:
    W, owner, claims = store.full()[0], store.owner.clone(), len(store.claims)
    with pytest.raises(RunFailed, match=message):
        store.claim(task, RULE, task_network, index)
    assert torch.equal(store.full()[0], W) and torch.equal(store.owner, owner) and len(store.claims) == claims


@pytest.mark.parametrize("where", ["W", "b", "input row"])
def test_a_moved_frozen_weight(where):
    store = accumulation()
    learn(store, "a")
    task_network, index = store.task_network("b", RULE)
    if where == "b":
        task_network.b.data[5] = torch.nextafter(task_network.b.data[5], torch.tensor(9.0))  # one bit
    else:
        row = 5 if where == "W" else 1
        column = int(task_network.W.data[row].nonzero()[0])
        task_network.W.data[row, column] = torch.nextafter(task_network.W.data[row, column], torch.tensor(9.0))
    refused(store, task_network, index, "task 'b': training has moved the frozen weights of earlier tasks")


def test_an_input_neuron_that_must_not_receive():
    store = accumulation(inputs_receive=False)
    task_network, index = store.task_network("a", RULE)
    task_network.W.data[0, 1] = 0.1
    refused(store, task_network, index, "training has moved the frozen weights", task="a")


def test_a_claimed_neuron_that_reads_a_free_one():
    store = accumulation()
    learn(store, "a")
    task_network, index = store.task_network("b", RULE)
    task_network.W.data[5, 15] = 1e-30
    refused(store, task_network, index, "task 'b': a claimed neuron reads a free one")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["W", "b"])
def test_a_weight_that_is_not_finite(bad, where):
    store = accumulation()
    task_network, index = store.task_network("a", RULE)
    (task_network.W.data[7] if where == "W" else task_network.b.data)[3] = bad
    refused(store, task_network, index, "task 'a': some of its weights are not finite", task="a")


# --- a task's own network --------------------------------------------------------------------------------------------


def test_the_network_of_a_task_is_what_reaches_its_port():
    store = accumulation()
    entry = learn(store, "a")
    W, b = store.full()
    network = store.network("a")
    assert entry.members.tolist() == [*range(10), 24, 25]
    assert torch.equal(network.W.data, W[entry.members][:, entry.members]) and network.W.data.is_contiguous()
    assert torch.equal(network.b.data, b[entry.members])
    assert network.frozen.all() and not network.W.requires_grad and not network.training
    assert (network.iterations, network.update.name, network.output_activation) == (4, "residual_both", "linear")
    assert list(network.layout.ports) == ["a"] and store.find(0) is store.find("a") is entry


def test_members_are_ascending_and_only_those_that_reach_the_port_in_time():
    """hidden 4 -> 5 -> 6 -> port in a row, 7 beside it, at I = 3: 4 would act at l = 4, 7 reads and is not read."""
    for I, expected in ((3, [5, 6]), (4, [4, 5, 6])):
        store = accumulation()
        task_network, index = store.task_network("a", RULE)
        task_network.W.data.zero_()
        for to, frm in ((4, 0), (5, 4), (6, 5), (24, 6), (7, 0)):
            task_network.W.data[to, frm] = 1.0
        entry = store.claim("a", Dynamics(I, "plain", "linear"), task_network, index)
        assert entry.members.tolist() == [0, 1, 2, 3, *expected, 24, 25]


def test_growth_keeps_members_ascending_and_answers_equal():
    store = accumulation()
    learn(store, "a", keep=20)
    assert len(store.free) == 0
    before = store.network("a")(probe())
    store.grow(5)
    store.add_ports({"d": 2})
    assert store.free.tolist() == list(range(31, 36)) and store.owner[36:].eq(PORT).all()
    learn(store, "b", keep=2)
    learn(store, "d", keep=3)
    members = store.find("d").members
    senders = members[:-2]
    assert torch.equal(senders, senders.sort().values) and members[-2:].tolist() == [36, 37]
    assert torch.equal(store.network("a")(probe()), before)
    assert store.owner[31:36].tolist() == [1, 1, 2, 2, 2]


def test_growth_by_planes():
    store = Accumulation(Layout.grid((2, 2, 3), 1, {"a": 2}))
    store.grow(2)
    assert store.layout.S == 22 and store.free.tolist() == [*range(4, 12), *range(14, 22)]


def test_every_task_keeps_its_own_rule():
    store = accumulation()
    rules = [
        Dynamics(2, "plain", "relu"),
        Dynamics(5, "residual_input", "linear"),
        Dynamics(3, "residual_output", "linear"),
    ]
    answers = []
    for task, rule in zip(PORTS, rules, strict=True):
        learn(store, task, rule=rule)
        answers.append(store.network(task)(probe()))
        network = store.network(task)
        assert (network.iterations, network.update.name, network.output_activation) == (
            rule.iterations,
            rule.update,
            rule.output_activation,
        )
    for task, answer in zip(PORTS, answers, strict=True):
        assert torch.equal(store.network(task)(probe()), answer)


def test_the_network_agrees_with_the_worker_it_came_from():
    """What is claimed answers as what was trained (to rounding: the worker holds more neurons)."""
    store = accumulation()
    learn(store, "a")
    task_network, index = store.task_network("b", RULE, torch.Generator().manual_seed(2))
    trained = task_network(probe(), "b").detach()
    store.claim("b", RULE, task_network, index)
    assert torch.allclose(store.network("b")(probe()), trained, rtol=1e-4, atol=1e-5)
    W, b = store.full()
    whole = URN(store.layout, 4, "residual_both", "linear")
    whole.set_parameters(store.layout, W, b)
    assert torch.allclose(whole(probe(), "b"), trained, rtol=1e-4, atol=1e-5)


def test_a_task_that_is_not_claimed():
    with pytest.raises(KeyError):
        accumulation().network("a")


def test_relabelling_the_neurons_changes_no_answer():
    """The same weights under other indices: the same logits up to the order of sums."""
    order = torch.cat([torch.arange(4), 4 + torch.randperm(20), torch.arange(24, 31)])
    layout = Layout.flat(S, D_IN, PORTS)
    stores = [Accumulation(layout, dtype=torch.float64) for _ in range(2)]
    start, index = stores[0].task_network("a", RULE, torch.Generator().manual_seed(5))
    W, b = start.W.data.clone(), torch.randn(S - 5).double() * 0.1
    answers = []
    for store, new in zip(stores, (torch.arange(26), order[:26]), strict=True):
        task_network, index = store.task_network("a", RULE)
        task_network.set_parameters(task_network.layout, W[new][:, new].clone(), b[new].clone(), task_network.frozen)
        store.claim("a", RULE, task_network, index)
        answers.append(store.network("a")(probe().double()))
    assert torch.allclose(*answers, rtol=1e-10)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_store_comes_back_from_a_file_bit_for_bit():
    store = Accumulation(Layout.grid((2, 2, 6), 1, PORTS), gain=0.7)
    learn(store, "a", mean=0.25, classes=["x", "y"])
    store.grow(1)
    learn(store, "b")
    file = io.BytesIO()
    torch.save(store.state_dict(), file)
    file.seek(0)
    again = Accumulation.from_state_dict(torch.load(file, weights_only=True))
    for one, two in zip(store.full(), again.full(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(store.owner, again.owner) and again.owner.dtype == torch.int16
    assert again.layout.plane == (2, 2) and torch.equal(again.layout.positions, store.layout.positions)
    assert (again.gain, again.inputs_receive) == (0.7, True)
    assert [(c.name, c.dynamics, c.extra) for c in again.claims] == [
        (c.name, c.dynamics, c.extra) for c in store.claims
    ]
    assert again.claims[0].extra == {"mean": 0.25, "classes": ["x", "y"]}
    for task in ("a", "b"):
        assert torch.equal(again.network(task)(probe()), store.network(task)(probe()))
    for one, two in zip(learn(store, "c").members, learn(again, "c").members, strict=True):
        assert one == two
    assert torch.equal(again.full()[0], store.full()[0])


def test_an_empty_store_comes_back_too():
    again = Accumulation.from_state_dict(accumulation(inputs_receive=False).state_dict())
    assert again.claims == [] and not again.inputs_receive and len(again.free) == 20
