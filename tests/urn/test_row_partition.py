"""W on two gloo processes against one process: the same losses, weights, gradients and moments; half of the memory.

The two processes are started once for all cases; each leaves what it has in a file, and the tests compare the files
with what this process computes alone.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from forward_passes import with_costs

from urn import compaction
from urn.compaction import ActivityTracker, set_active_sets, update_full_pass
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.row_partition import RowPartition
from urn.surgery import shard, unshard
from urn.update_rules import UPDATES

STEPS, WORLD, B, D_IN = 50, 2, 8, 9
LAYOUT = Layout.grid((3, 3, 6), 1, {"a": 3, "b": 2})  # S = 59: the ranks' parts are not equal
PROX = Penalty("prox_decoupled", weight=0.2, activity=1e-3, synapse_length=0.05)
CLAIMED = (*range(9), 10, 11, 17, 30)  # the input neurons are among them: they are never active and not computed

CASES: dict[str, dict[str, Any]] = {name: {"update": name} for name in UPDATES}
CASES |= {f"{name}, nothing claimed": {"update": name, "claimed": ()} for name in ("plain", "residual_both")}
CASES |= {
    "one iteration": {"iterations": 1},
    "two iterations": {"iterations": 2},
    "compaction": {"compact": 20, "penalty": Penalty("prox_adam", weight=0.2, activity=0.05)},
    "active sets": {"compact": 20, "sets": True, "penalty": Penalty("prox_adam", weight=0.2, activity=0.05)},
    "rectified outputs": {"output": "relu"},
    "momentum": {"base": "sgd", "lr": 1e-2, "momentum": 0.9},
    "subgradient": {"penalty": Penalty("subgradient", weight=1e-3, activity=1e-3)},
    "a sequence": {"update": "residual_input", "sequence": True},
    "a mask": {"mask": True},
    "to the letter": {"literal": True, "update": "residual_both"},
    "every readout": {"every": True},
    "every readout, added up": {"every": True, "update": "residual_both", "literal": True},
    "gradient kept": {"recycle": True, "claimed": ()},
}


def train(
    whole: bool,
    update: str = "residual_output",
    claimed: tuple[int, ...] = CLAIMED,
    iterations: int = 4,
    output: str = "linear",
    penalty: Penalty = PROX,
    base: str = "adam",
    lr: float = 5e-3,
    compact: int = 0,
    sets: bool = False,
    sequence: bool = False,
    mask: bool = False,
    literal: bool = False,
    recycle: bool = False,
    every: bool = False,
    **options: float,
) -> dict[str, Any]:
    """STEPS steps, and all that they leave, put together from all ranks."""
    generator = torch.Generator().manual_seed(5)
    pattern = torch.rand(LAYOUT.S, LAYOUT.S, generator=generator) < 0.7 if mask else None
    urn = URN(LAYOUT, iterations, update, output, generator=generator, mask=pattern)
    W, b, frozen = urn.W.data.clone(), 0.1 * torch.randn(LAYOUT.S, generator=generator), torch.zeros(59).bool()
    frozen[list(claimed)] = True
    W[frozen[:, None] & ~frozen] = 0
    W[:9][frozen[:9]] = 0
    b[:9][frozen[:9]] = 0
    urn.set_parameters(LAYOUT, W, b, frozen)
    if not whole:
        shard(urn)
    optimizer = Proximal(urn, base, lr, penalty=penalty, **options)
    urn.reuse_gradient_memory = recycle
    urn.tracker = ActivityTracker(urn) if compact else None
    losses, sizes, narrowed = [], [], []
    for step in range(STEPS):
        shape = (B, iterations, D_IN) if sequence else (B, D_IN)
        x, y = torch.randn(shape, generator=generator), torch.randint(3, (B,), generator=generator)
        if sets:
            update_full_pass(urn, optimizer, step)
        optimizer.zero_grad()
        costs = penalty.activity_costs(iterations, B)
        logits, activity = with_costs(urn, x, "a", costs, literal=literal, every=every)
        logits = logits.mean(0) if every else logits
        loss = torch.nn.functional.cross_entropy(logits, y) + activity
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if compact and (step + 1) % compact == 0:
            (set_active_sets if sets else compaction.compact)(urn, optimizer)
            if sets:
                narrowed.append(int(urn.inactive.sum()) if urn.inactive is not None else 0)
            urn.tracker = ActivityTracker(urn)
        sizes.append(urn.S)
    state = {key: value for key, value in optimizer.state[urn.W].items() if torch.is_tensor(value) and value.dim()}
    stored = {"W": urn.W.data, "gradient": urn.W.grad, **state}
    assert stored["gradient"] is not None
    size = {key: value.nbytes for key, value in stored.items()}
    stored |= {"b": urn.b.data}
    collected = {key: urn.partition.collect(value) for key, value in stored.items()}
    with torch.no_grad():
        unseen = torch.randn(4, D_IN, generator=generator)
        answers = {"logits": urn(unseen, "b"), "states": torch.stack(urn.states(unseen))}
    unshard(urn)
    with torch.no_grad():
        answers["logits, put together"] = urn(unseen, "b")
    assert urn.partition.world == 1 and torch.equal(urn.W.data, collected["W"])  # type: ignore[arg-type]
    return {
        "losses": losses,
        "sizes": sizes,
        "narrowed": narrowed,
        "bytes": size,
        "first": (W, b),
        **collected,
        **answers,
    }


def rank(number: int, folder: str) -> None:
    warnings.simplefilter("error")  # pytest's own setting does not reach here
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=WORLD)
    torch.save({name: train(False, **case) for name, case in CASES.items()}, f"{folder}/{number}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank, (str(folder),), WORLD)  # type: ignore[attr-defined]
    return [torch.load(folder / str(number)) for number in range(WORLD)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return {name: train(True, **case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_train_as_one_does(ranks, one, name):
    alone = one[name]
    for part in (found[name] for found in ranks):
        assert part["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert part["sizes"] == alone["sizes"] and part["narrowed"] == alone["narrowed"]
        for key in set(alone) - {"losses", "sizes", "narrowed", "bytes", "first"}:
            assert torch.allclose(part[key], alone[key], atol=2e-4), key
    assert all(torch.equal(ranks[0][name][key], ranks[1][name][key]) for key in ("logits", "states", "W"))
    assert len(set(alone["losses"])) == STEPS and (alone["W"] != 0).any()


def test_the_cases_are_about_something(one):
    """Weights are cut to exact zeros, and neurons leave."""
    assert one["compaction"]["sizes"][-1] < one["compaction"]["sizes"][0]
    assert any(one["active sets"]["narrowed"])
    free = torch.ones(59).bool().index_fill(0, torch.tensor(CLAIMED), False)
    assert 0.05 < (one["residual_both"]["W"][free] == 0).float().mean() < 0.95


@pytest.mark.parametrize("name", ["plain", "residual_both"])
def test_claimed_rows_keep_their_bits_on_every_rank(ranks, name):
    for found in ranks:
        W, b = found[name]["first"]
        rows = list(CLAIMED)
        assert torch.equal(found[name]["W"][rows][:, :54], W[rows][:, :54])
        assert torch.equal(found[name]["b"][rows], b[rows])


@pytest.mark.parametrize("name", list(CASES))
def test_each_process_has_at_most_55_percent_of_the_memory(ranks, one, name):
    """Of W, its gradient and each moment. After compaction the halves are even by chance alone; they only shrink."""
    whole = 4 * LAYOUT.S**2 if "compact" in CASES[name] else None
    for found in ranks:
        assert found[name]["bytes"].keys() == one[name]["bytes"].keys() >= {"W", "gradient"}
        for key, size in found[name]["bytes"].items():
            assert size <= 0.55 * (whole or one[name]["bytes"][key]), key


def test_rows_are_assigned_round_robin_and_stay():
    partition = RowPartition(torch.tensor([0, 1, 0, 1, 0, 1, 0]), rank=1, world=2)
    assert partition.neurons.tolist() == [1, 3, 5]
    assert partition.rows(torch.tensor([0, 3, 4, 5])).tolist() == [1, 2]
    after = partition.take(torch.tensor([1, 2, 5, 6]))
    assert after.neurons.tolist() == [0, 2] and after.owner.tolist() == [1, 0, 1, 0]
    row_index = partition.row_index(torch.tensor([5, 0, 2, 4]), torch.device("cpu"))
    assert (row_index.width, row_index.place.tolist(), row_index.mine.tolist()) == (3, [3, 0, 1, 2], [0])


def test_no_subnetwork_is_cut_out_of_a_sharded_network():
    urn = URN(LAYOUT, 2)
    partition = RowPartition(torch.arange(59) % 2, rank=0, world=2)
    urn.partition = partition
    with pytest.raises(ValueError, match="unshard"):
        urn.subnetwork(torch.arange(20))
