"""nesa.config.curriculum: names, defaults and ranges of every key, and plain dicts of them."""

from __future__ import annotations

import json
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass

import pytest

from nesa.config.conversion import field_types
from nesa.config.curriculum import (
    LEARNER_PARAMS,
    LEARNERS,
    Augment,
    Curriculum,
    Input,
    Learner,
    Network,
    Penalties,
    Task,
    Training,
    to_dict,
)

SECTIONS = (Input, Network, Penalties, Learner, Training, Augment, Task, Curriculum)


def make() -> Curriculum:
    return Curriculum(
        name="small",
        input=Input(size=(4, 6), channels=3),
        network=Network(grid=(6, 4, 5)),
        tasks=(Task(name="a", source="edges", params={"train": 100, "deep": {"list": [1, (2, 3)]}}),),
    )


def test_defaults_are_those_of_the_contract():
    whole = to_dict(make())
    assert whole["penalties"] == {
        "method": "prox_decoupled",
        "weight": 0.3,
        "activity": 2e-3,
        "activity_reduction": "mean",
        "activity_growth": 0.0,
        "synapse_length": 0.0,
        "beta": 16.0,
        "gamma": 1.0,
        "ramp": 0.33,
        "literal": False,
        "early_readout": 0.0,
        "ports": False,
    }
    assert whole["training"] == {
        "optimizer": "adam",
        "lr": 1e-3,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 256,
        "epochs": 10,
        "schedule": "cosine",
        "warmup": 50,
        "factored_moments": False,
        "precision": "float32",
    }
    assert whole["learner"] | {"params": None} == {
        "name": "neural_pruning",
        "margin": 0.01,
        "heal_epochs": 4,
        "heal_lr": 1.0,
        "compaction": True,
        "active_sets": True,
        "grow": True,
        "params": None,
    }
    assert (whole["seed"], whole["network"]["update"], whole["network"]["iterations"]) == (0, "residual_both", 5)


def test_to_dict_is_plain_data_in_the_order_of_writing():
    whole = to_dict(make())
    assert list(whole)[:5] == ["name", "description", "seed", "input", "network"]
    assert list(whole)[-1] == "tasks"
    assert whole["network"]["grid"] == [6, 4, 5]
    assert whole["tasks"][0]["params"] == {"train": 100, "deep": {"list": [1, [2, 3]]}}
    assert json.loads(json.dumps(whole)) == whole


def test_to_dict_gives_copies():
    curriculum = make()
    to_dict(curriculum)["tasks"][0]["params"]["train"] = 7
    assert curriculum.tasks[0].params["train"] == 100


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_every_key_is_explained_and_its_default_is_in_its_range(cls):
    from nesa.config.conversion import _out_of_range

    for f in fields(cls):
        assert f.metadata["help"], f"{cls.__name__}.{f.name} has no help"
        if f.default not in (MISSING, None):
            assert _out_of_range(f, f.default) == "", f"{cls.__name__}.{f.name}"
        if is_dataclass(field_types(cls)[f.name]):
            assert f.default is MISSING


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_frozen(cls):
    whole = make()
    made = {Input: whole.input, Network: whole.network, Task: whole.tasks[0], Curriculum: whole}.get(cls) or cls()
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(cls)[0].name, None)


def test_every_learner_says_its_parameters():
    assert set(LEARNER_PARAMS) == set(LEARNERS)
    for name, params in LEARNER_PARAMS.items():
        for p in params:
            assert isinstance(p.default, p.kind), f"{name}.{p.name}"
            assert p.default >= p.low, f"{name}.{p.name}"
