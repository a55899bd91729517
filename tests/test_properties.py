"""Properties over generated cases: what is written loads as the same curriculum, and no claim breaks a promise.

(That a run stopped at any step goes on to the same bits is in test_epochs, beside the runs that it needs.)
"""

from __future__ import annotations

import tempfile
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nesa.config.conversion import field_types
from nesa.config.curriculum import Augment, Curriculum, Learner, Penalties, Training
from nesa.config.loader import dump, load
from nesa.errors import RunFailed, UserError
from nesa.neuron_owner import FREE
from nesa.training.accumulation import Accumulation, Dynamics
from urn.layout import Layout
from urn.surgery import keep_only
from urn.update_rules import UPDATES

# A curriculum, written and read -------------------------------------------------------------------------------------


def value(cls: type, f: Field[Any]) -> st.SearchStrategy[Any]:
    """What may stand at one key, by its type and its metadata."""
    allowed, hint = f.metadata, field_types(cls)[f.name]
    if allowed.get("choices"):
        return st.sampled_from(allowed["choices"])
    if hint is bool:
        return st.booleans()
    low, high = allowed.get("low") or 0, allowed.get("high")
    if hint is int:
        return st.integers(int(low), int(high if high is not None else 10**6))
    if allowed.get("above") is not None:
        return st.floats(max(allowed["above"], 1e-12), 1e6, exclude_min=True)
    return st.floats(low, high if high is not None else 1e6)


def section(cls: type, *leave: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some keys of a config section with values that are in range."""
    known = [f for f in fields(cls) if f.default is not MISSING and field_types(cls)[f.name] in (int, float, str, bool)]
    return st.fixed_dictionaries({}, optional={f.name: value(cls, f) for f in known if f.name not in leave})


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,10}", fullmatch=True)
TASK = st.fixed_dictionaries(
    {"name": NAMES, "source": st.sampled_from(["edges", "shapes", "gratings", "positions"])},
    optional={
        "training": section(Training),
        "penalties": section(Penalties),
        "augment": section(Augment),
        "iterations": st.integers(1, 9),
        "fallback": st.sampled_from(["scenes", "junctions"]),
        "params": st.fixed_dictionaries({}, optional={"train": st.integers(2000, 9000)}),
    },
)
TREES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "input": st.fixed_dictionaries(
            {"size": st.lists(st.integers(8, 64), min_size=2, max_size=2)},
            optional={"channels": st.sampled_from([1, 3])},
        ),
        "network": st.fixed_dictionaries(
            {"grid": st.tuples(st.integers(4, 40), st.integers(4, 40), st.integers(2, 6)).map(list)},
            optional={"iterations": st.integers(1, 50), "update": st.sampled_from(list(UPDATES))},
        ),
        "tasks": st.lists(TASK, min_size=1, max_size=4, unique_by=lambda task: task["name"].casefold()),
    },
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "training": section(Training),
        "penalties": section(Penalties),
        "learner": section(Learner, "name"),
    },
)


def read(text: str) -> Curriculum:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(TREES)
def test_a_curriculum_is_written_and_read_as_the_same(tree):
    try:
        curriculum = read(yaml.safe_dump(tree))
    except UserError:  # keys that do not go together have their own sentences, tested one by one
        assume(False)
        raise
    assert read(dump(curriculum)) == curriculum
    assert dump(read(dump(curriculum))) == dump(curriculum)


# What is accumulated ------------------------------------------------------------------------------------------------

D_IN, I = 3, 3


def learned(accumulation: Accumulation, name: str, rule: Dynamics, generator: torch.Generator, share: float) -> None:
    """Claims a worker whose free rows hold anything, with a random part of its free neurons and synapses kept."""
    task_network, index = accumulation.task_network(name, rule, generator)
    free = ~task_network.frozen
    noise = torch.randn(task_network.W.shape, generator=generator)
    task_network.W.data[free] += noise[free]
    task_network.W.data[free] *= torch.rand(task_network.W.shape, generator=generator)[free] < share
    task_network.b.data[free] = torch.randn(int(free.sum()), generator=generator)
    task_network.restore_frozen()
    keep = torch.rand(task_network.S, generator=generator) < share
    keep |= task_network.frozen
    keep[task_network.layout.inputs] = True
    keep[task_network.layout.ports[name]] = True
    kept = keep.nonzero().flatten()
    keep_only(task_network, kept)
    accumulation.claim(name, rule, task_network, index[kept])


RUNS = st.tuples(
    st.lists(st.integers(2, 4), min_size=2, max_size=4),  # classes of each task
    st.integers(1, 12),  # hidden neurons
    st.sampled_from(list(UPDATES)),
    st.booleans(),  # inputs receive
    st.floats(0.1, 1.0),
    st.integers(0, 2**31),
)


@settings(deadline=None, max_examples=60)
@given(RUNS)
def test_no_claim_breaks_a_promise(case):
    classes, hidden, update, inputs_receive, share, seed = case
    generator = torch.Generator().manual_seed(seed)
    ports = {f"t{k}": n for k, n in enumerate(classes)}
    layout = Layout.flat(D_IN + hidden + sum(classes), D_IN, ports)
    accumulation, rule = Accumulation(layout, inputs_receive=inputs_receive), Dynamics(I, update, "linear")
    x = torch.randn(5, D_IN, generator=generator)
    references: list[torch.Tensor] = []
    owner = accumulation.owner.clone()
    for k, name in enumerate(ports):
        if k and len(accumulation.free) < 2:
            accumulation.grow(3)
        grown = len(accumulation.owner) - len(owner)
        learned(accumulation, name, rule, generator, share)
        was = torch.cat([owner, owner.new_full((grown,), FREE)])
        changed = accumulation.owner != was
        assert bool((was[changed] == FREE).all()) and bool((accumulation.owner[changed] == k).all())
        owner = accumulation.owner.clone()
        W, _ = accumulation.full()
        resting = owner >= 0
        resting[layout.inputs] = True
        assert not W[resting][:, owner == FREE].any()
        for j in range(k):
            assert not W[owner == j][:, owner > j].any()
        assert not W[:, torch.cat([accumulation.layout.ports[name] for name in ports])].any()
        again = Accumulation.from_state_dict(accumulation.state_dict())
        references.append(accumulation.network(name)(x))
        for j, reference in enumerate(references):
            assert torch.equal(accumulation.network(j)(x), reference)
            assert torch.equal(again.network(j)(x), reference)


@settings(deadline=None, max_examples=30)
@given(RUNS, st.sampled_from(["moves", "reads", "nan", "inf"]))
def test_a_worker_that_would_break_one_is_refused_and_the_store_keeps_its_bits(case, how):
    classes, hidden, update, _, _, seed = case
    generator = torch.Generator().manual_seed(seed)
    ports = {f"t{k}": n for k, n in enumerate(classes)}
    accumulation = Accumulation(Layout.flat(D_IN + hidden + 3 + sum(classes), D_IN, ports))
    rule = Dynamics(I, update, "linear")
    learned(accumulation, "t0", rule, generator, 0.5)
    accumulation.grow(3)
    before = [value.clone() for value in accumulation.full()]
    task_network, index = accumulation.task_network("t1", rule, generator)
    fixed, free = task_network.frozen.nonzero().flatten(), (~task_network.frozen).nonzero().flatten()
    row = int(fixed[int(torch.randint(len(fixed), (), generator=generator))])
    if how == "moves":
        task_network.W.data[row, int(fixed[-1])] += 1e-3
    elif how == "reads":
        task_network.W.data[row, int(free[0])] = 1e-30
    else:
        task_network.W.data[int(free[-1]), row] = float(how)
    with pytest.raises(RunFailed):
        accumulation.claim("t1", rule, task_network, index)
    assert all(torch.equal(a, b) for a, b in zip(before, accumulation.full(), strict=True))
    assert [claim.name for claim in accumulation.claims] == ["t0"]
