"""nesa.config.json_schema: the committed schema is current, is a schema, and agrees with the door."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from nesa.config.curriculum import Curriculum, to_dict
from nesa.config.json_schema import schema
from nesa.config.loader import load
from nesa.datasets.registry import SOURCES
from nesa.errors import UserError

CURRICULA = Path(__file__).parents[2] / "curricula"
SHIPPED = sorted(CURRICULA.glob("*.yaml"))
GOOD = """\
name: base
input: {size: [8, 8]}
network: {grid: [8, 8, 3]}
tasks: [{name: first, source: edges}]
"""


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema())


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_committed_schema_is_current():
    assert json.loads((CURRICULA / "schema.json").read_text()) == schema(), "run: nesa schema > curricula/schema.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_curricula_pass_the_door_and_the_schema_that_they_name(path, validator):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    for word in ("# Question", "# Command    nesa run curricula/" + path.name, "# Time", "# Expected"):
        assert f"\n{word}" in text
    curriculum = load(path)
    assert curriculum.name == path.stem
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


def test_shipped_curricula_exist():
    names = {"cifar10_geometry", "ladder", "quickstart", "spheres", "spheres_residual", "vision"}
    assert names <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_resolved_curricula_pass(path, validator):
    assert [error.message for error in validator.iter_errors(to_dict(load(path)))] == []


def test_every_key_and_every_source_parameter_is_in_it():
    made = schema()
    for section, value in to_dict(load(CURRICULA / "vision.yaml")).items():
        shape = made["properties"][section]
        if isinstance(value, dict):
            assert set(shape["properties"]) == set(value)
            assert all(shape["properties"][key]["description"] for key in value)
    task = made["properties"]["tasks"]["items"]
    assert set(task["properties"]) == set(to_dict(load(CURRICULA / "vision.yaml"))["tasks"][0])
    assert set(made["properties"]) == {"extends", *(f for f in Curriculum.__dataclass_fields__)}
    for name, source in SOURCES.items():
        assert set(made["$defs"][f"source_{name}"]["properties"]) == {p.name for p in source.params}
        assert name in task["properties"]["source"]["anyOf"][0]["enum"]


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"seed": 3}, True),
        ({"penalties": None}, True),
        ({"network": {"neurons": 100}}, True),
        ({"learner": {"name": "ewc", "params": {"lambda": 2}}}, True),
        ({"tasks": [{"name": "a", "source": "edges", "params": {"train": 500}}]}, True),
        ({"tasks": [{"name": "a", "source": "edges", "fallback": "shapes", "fallback_params": {}}]}, True),
        ({"tasks": [{"name": "a", "source": "my.module:make", "params": {"classes": 3, "x": 1}}]}, True),
        ({"sed": 3}, False),
        ({"name": "a/b"}, False),
        ({"name": "a" * 65}, False),
        ({"seed": -1}, False),
        ({"seed": "x"}, False),
        ({"input": {"channels": 1}}, False),
        ({"input": {"size": [8, 0]}}, False),
        ({"network": {"grid": [8, 8]}}, False),
        ({"network": {"grid": [8, 8, 3], "update": "other"}}, False),
        ({"training": {"lr": 0}}, False),
        ({"training": {"epochs": 0}}, False),
        ({"learner": {"margin": 2}}, False),
        ({"learner": {"name": "ewc", "params": {"lamda": 2}}}, False),
        ({"learner": {"name": "replay", "params": {"memory": 0}}}, False),
        ({"tasks": []}, False),
        ({"tasks": [{"source": "edges"}]}, False),
        ({"tasks": [{"name": "a", "source": "edgs"}]}, False),
        ({"tasks": [{"name": "a", "source": "edges", "params": {"trian": 500}}]}, False),
        ({"tasks": [{"name": "a", "source": "edges", "params": {"train": 0}}]}, False),
        ({"tasks": [{"name": "a", "source": "edges", "training": {"epoch": 1}}]}, False),
    ],
    ids=str,
)
def test_the_schema_and_the_door_agree(tmp_path, validator, change, good):
    document = yaml.safe_load(GOOD) | change
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(document))
    try:
        load(path)
        let_in = True
    except UserError:
        let_in = False
    assert (let_in, validator.is_valid(document)) == (good, good)


def test_a_curriculum_that_extends_needs_only_what_it_changes(validator):
    assert validator.is_valid({"extends": "vision.yaml", "input": {"channels": 3}})
    assert not validator.is_valid({"input": {"channels": 3}})
