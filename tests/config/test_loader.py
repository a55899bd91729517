"""nesa.config.loader: what is read, and every mistake with its own sentence at its own place."""
# ruff: noqa: E501  (a mistake, its place and its sentence stand on one line)

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nesa.config.curriculum import Learner, to_dict
from nesa.config.loader import dump, load
from nesa.errors import CurriculumError, UserError

GOOD = """\
name: base
seed: 0
input: {size: [8, 8], channels: 1}
network:
  grid: [8, 8, 3]
  iterations: 3
  update: residual_both
penalties: {weight: 0.25}
learner: {name: neural_pruning, margin: 0.02}
training:
  epochs: 2
  lr: 1e-3
tasks:
  - name: first
    source: edges
  - name: second
    source: shapes
    training: {epochs: 3}
"""


def write(folder: Path, text: str, name: str = "base.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def edited(lines: dict[int, str]) -> str:
    """GOOD with some of its lines, counted from 1, replaced."""
    return "\n".join(lines.get(number, line) for number, line in enumerate(GOOD.splitlines(), 1)) + "\n"


def problems(path: Path, *overrides: str) -> list[tuple[int, int, str, str]]:
    """(line, column, key, message) of all problems of the file; the file is named in each."""
    with pytest.raises(CurriculumError) as caught:
        load(path, overrides)
    assert {problem.file for problem in caught.value.problems} <= {str(path), "command line"}
    return [(p.line, p.column, p.key, p.message) for p in caught.value.problems]


# What is let in -----------------------------------------------------------------------------------------------------


def test_a_good_curriculum_is_resolved(tmp_path):
    curriculum = load(write(tmp_path, GOOD))
    assert curriculum.name == "base"
    assert curriculum.input.size == (8, 8)
    assert curriculum.network.grid == (8, 8, 3)
    assert curriculum.training.lr == 1e-3 and isinstance(curriculum.training.lr, float)
    first, second = curriculum.tasks
    assert (first.iterations, second.iterations) == (3, 3)
    assert (first.training.epochs, second.training.epochs) == (2, 3)
    assert second.training == replace(curriculum.training, epochs=3)
    assert first.penalties == second.penalties == curriculum.penalties
    assert curriculum.penalties.weight == 0.25 and curriculum.penalties.activity == 2e-3
    assert first.params["train"] > 0, "the source's defaults belong to the resolved curriculum"


def test_dump_and_load_give_an_equal_curriculum(tmp_path):
    text = edited({9: "learner: {name: ewc, params: {lambda: 3}}", 15: "    source: edges\n    iterations: 7"})
    curriculum = load(write(tmp_path, text), ["tasks.second.penalties.weight=0.125"])
    again = write(tmp_path, dump(curriculum), "again.yaml")
    assert load(again) == curriculum
    assert load(again, ["training.batch_size=8"]).tasks[1].training.batch_size == 8
    assert load(again, ["network.iterations=2"]).tasks[0].iterations == 7
    assert load(again, ["network.iterations=2"]).tasks[1].iterations == 2


def test_the_full_dict_as_yaml_loads_to_an_equal_curriculum(tmp_path):
    curriculum = load(write(tmp_path, GOOD))
    assert load(write(tmp_path, yaml.safe_dump(to_dict(curriculum)), "full.yaml")) == curriculum


@pytest.mark.parametrize(
    ("line", "text", "key", "value"),
    [
        (1, "name: 007", "name", "007"),
        (1, "name: no", "name", "no"),
        (1, "name: 2001-01-01", "name", "2001-01-01"),
        (12, "  lr: 3e-4", "training.lr", 3e-4),
        (12, '  lr: "0.5"', "training.lr", 0.5),
        (12, "  lr: 1", "training.lr", 1.0),
        (8, "penalties: {literal: yes}", "penalties.literal", True),
        (8, "penalties:", "penalties.weight", 0.3),
        (2, "seed: ${network.iterations}", "seed", 3),
        (2, "seed: ${tasks[1].training.epochs}", "seed", 3),
        (2, "seed: ${tasks.second.training.epochs}", "seed", 3),
    ],
)
def test_values_are_read_as_they_are_meant(tmp_path, line, text, key, value):
    found = load(write(tmp_path, edited({line: text})))
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value and type(found) is type(value)


def test_anchors_and_merge_keys(tmp_path):
    text = edited({10: "training: &t", 18: "    training: {<<: *t, epochs: 5}"})
    curriculum = load(write(tmp_path, text), ["training.batch_size=8"])
    assert curriculum.tasks[1].training == replace(curriculum.training, epochs=5)


def test_baseline_parameters_have_defaults(tmp_path):
    path = write(tmp_path, GOOD)
    assert load(path, ["learner.name=ewc"]).learner == Learner(name="ewc", margin=0.02, params={"lambda": 1.0})
    assert load(path, ["learner.name=lwf", "learner.params.alpha=2"]).learner.params == {"alpha": 2, "temperature": 2.0}


def test_sources_of_ones_own_are_not_imported(tmp_path):
    path = write(tmp_path, GOOD)
    task = load(path, ["tasks[0].source=no_such_module:make", "tasks[0].params={classes: 4, extra: 1}"]).tasks[0]
    assert (task.source, task.params) == ("no_such_module:make", {"classes": 4, "extra": 1})


# extends ------------------------------------------------------------------------------------------------------------


def test_extends_merges_key_by_key_and_replaces_lists(tmp_path):
    write(tmp_path, GOOD)
    child = write(tmp_path, "extends: base.yaml\nname: child\ntraining: {epochs: 9}\n", "child.yaml")
    grandchild = write(tmp_path, "extends: child.yaml\ntasks: [{name: only, source: edges}]\n", "grandchild.yaml")
    one, two = load(child), load(grandchild)
    assert (one.name, one.training.epochs, one.training.lr, len(one.tasks)) == ("child", 9, 1e-3, 2)
    assert (two.name, two.training.epochs, [task.name for task in two.tasks]) == ("child", 9, ["only"])


def test_a_new_learner_does_not_inherit_parameters(tmp_path):
    write(tmp_path, edited({9: "learner: {name: ewc, params: {lambda: 5}}"}))
    child = write(tmp_path, "extends: base.yaml\nlearner: {name: replay}\n", "child.yaml")
    assert load(child).learner.params == {"memory": 200}
    assert load(child, ["learner.name=naive"]).learner.params == {}


def test_problems_name_the_file_that_they_are_in(tmp_path):
    base = write(tmp_path, edited({11: "  epochs: 0"}))
    child = write(tmp_path, "extends: base.yaml\nseed: x\n", "child.yaml")
    with pytest.raises(CurriculumError) as caught:
        load(child)
    assert [(p.file, p.line, p.key) for p in caught.value.problems] == [
        (str(base), 11, "training.epochs"),
        (str(child), 2, "seed"),
    ]


def test_extends_a_file_whose_path_is_long(tmp_path):
    deep = "/".join(["d" * 60] * 6)
    (tmp_path / deep).mkdir(parents=True)
    base = write(tmp_path / deep, GOOD)
    assert len(f"{deep}/base.yaml") > 255
    child = load(write(tmp_path, f"extends: {deep}/base.yaml\nname: child\n", "child.yaml"))
    assert child.tasks == load(base).tasks
    name = "d" * 300 + ".yaml"  # longer than a name may be
    with pytest.raises(CurriculumError, match=r"extends: \.\.\.d+\.yaml: cannot be opened") as error:
        load(write(tmp_path, f"extends: {name}\nname: child\n", "child.yaml"))
    assert len(str(error.value).splitlines()[0]) < 400


def test_extends_in_a_circle(tmp_path):
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    b = write(tmp_path, "extends: a.yaml\n", "b.yaml")
    with pytest.raises(
        CurriculumError, match=r"a\.yaml:1:10: extends: goes in a circle: b\.yaml -> a\.yaml -> b\.yaml"
    ):
        load(b)


def test_extends_too_deep(tmp_path):
    for i in range(30):
        write(tmp_path, f"extends: {i + 1}.yaml\n", f"{i}.yaml")
    with pytest.raises(CurriculumError, match="extends: is the end of a chain of more than 8 files"):
        load(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("gone.yaml", "gone.yaml: no such file; the folder has child.yaml"),
        (".", ": not a file; give the curriculum inside the folder"),
        ("[a, b]", "must be the name of one YAML file, not ['a', 'b']"),
        ("x" * 5000, f"must be the name of one YAML file, not '{'x' * 57}...'"),
    ],
)
def test_extends_what_cannot_be_read(tmp_path, value, sentence):
    found = problems(write(tmp_path, f"name: child\nextends: {value}\n", "child.yaml"))
    line, column, _, message = next(problem for problem in found if problem[2] == "extends")
    assert (line, column) == (2, 10)
    assert message.endswith(sentence)


# Overrides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.epochs=4", "training.epochs", 4),
        ("tasks[1].training.epochs=4", "tasks.1.training.epochs", 4),
        ("tasks.1.training.epochs=4", "tasks.1.training.epochs", 4),
        ("tasks.second.training.epochs=4", "tasks.1.training.epochs", 4),
        ("tasks.first.augment.flip=true", "tasks.0.augment.flip", True),
        ("input.size=[4, 4]", "input.size", (4, 4)),
        ("description=a = b: c", "description", None),
        ("description='a = b: c'", "description", "a = b: c"),
        ("description=", "description", None),
    ],
)
def test_overrides(tmp_path, override, key, value):
    path = write(tmp_path, GOOD)
    if value is None:
        assert problems(path, override)[0][0] == 1
        return
    found = load(path, [override])
    for step in key.split("."):
        found = found[int(step)] if step.isdecimal() else getattr(found, step)
    assert found == value


@pytest.mark.parametrize(
    ("override", "key", "sentence"),
    [
        ("training.epoch=4", "training.epoch", "unknown key (did you mean epochs?)"),
        ("training.epochs=few", "training.epochs", "must be a whole number, not 'few'"),
        ("epochs", "", "'epochs' is not of the form key=value, such as training.epochs=3"),
        ("=3", "", "'=3' is not of the form key=value, such as training.epochs=3"),
        ("a..b=3", "", "'a..b=3' is not of the form key=value, such as training.epochs=3"),
        ("tasks[9].name=x", "tasks.9", "does not exist"),
        ("tasks.9=x", "tasks.9", "does not exist: the list has 2"),
        ("seed.x=3", "seed", "has no keys of its own"),
        ("seed=[1", "", "not readable as YAML: while parsing a flow sequence expected ',' or ']', but got "
         "'<stream end>'"),
        ("extends=other.yaml", "extends", "cannot be given on the command line; write a file that extends"),
    ],
)  # fmt: skip
def test_bad_overrides(tmp_path, override, key, sentence):
    path = write(tmp_path, GOOD)
    with pytest.raises(CurriculumError) as caught:
        load(path, ["seed=1", override])
    problem = caught.value.problems[0]
    assert (problem.file, problem.line, problem.key, problem.message) == ("command line", 2, key, sentence)


# What is refused ----------------------------------------------------------------------------------------------------

NAMES = "letters, digits, '_', '-' and '.', not starting with '.' or '-', because files are named after it"
BAD: dict[str, tuple[dict[int, str], int, int, str, str]] = {
    # name of the case: (lines changed, line, column, key, sentence)
    "unknown key": ({2: "sed: 0"}, 2, 1, "sed", "unknown key (did you mean seed?)"),
    "unknown nested key": ({11: "  epoch: 2"}, 11, 3, "training.epoch", "unknown key (did you mean epochs?)"),
    "unknown key of a task": ({15: "    sorce: edges"}, 15, 5, "tasks[0].sorce", "unknown key (did you mean source?)"),
    "key of another section": ({2: "epochs: 3"}, 2, 1, "epochs", "unknown key (did you mean training.epochs?)"),
    "duplicate key": ({12: "  epochs: 3"}, 12, 3, "training.epochs", "is given twice (first in line 11)"),
    "missing name": ({1: ""}, 2, 1, "name", "is missing: name of the curriculum; part of the run folder's name"),
    "missing input": ({3: ""}, 1, 1, "input", "is missing: the shape of one sample"),
    "missing size": ({3: "input: {channels: 1}"}, 3, 8, "input.size", "is missing: [H, W] of an image, or [D] of a vector"),
    "missing task name": ({14: "  - fallback: null"}, 14, 5, "tasks[0].name", "is missing: name of the task, unique; part of file names"),
    "no tasks": ({13: "tasks: []", 14: "", 15: "", 16: "", 17: "", 18: ""}, 13, 8, "tasks", "must be a list of at least one task, not empty"),
    "tasks a mapping": ({13: "tasks: {a: 1}", 14: "", 15: "", 16: "", 17: "", 18: ""}, 13, 8, "tasks", "must be a list of at least one task, not a mapping"),
    "task a text": ({14: "  - edges", 15: ""}, 14, 5, "tasks[0]", "must be a mapping of keys, not 'edges'"),
    "section a text": ({8: "penalties: strong"}, 8, 12, "penalties", "must be a mapping of keys, not 'strong'"),
    "text for whole number": ({11: "  epochs: many"}, 11, 11, "training.epochs", "must be a whole number, not 'many'"),
    "fraction for whole number": ({11: "  epochs: 2.5"}, 11, 11, "training.epochs", "must be a whole number, not 2.5"),
    "truth for whole number": ({11: "  epochs: true"}, 11, 11, "training.epochs", "must be a whole number, not true"),
    "null for whole number": ({11: "  epochs:"}, 11, 10, "training.epochs", "must be a whole number, not nothing"),
    "text for number": ({12: "  lr: fast"}, 12, 7, "training.lr", "must be a number, not 'fast'"),
    "list for number": ({12: "  lr: [1, 2]"}, 12, 7, "training.lr", "must be a number, not [1, 2]"),
    "text for truth": ({8: "penalties: {literal: maybe}"}, 8, 22, "penalties.literal", "must be true or false, not 'maybe'"),
    "mapping for text": ({1: "name: {a: b}"}, 1, 7, "name", "must be text, not a mapping"),
    "missing marker": ({12: "  lr: ???"}, 12, 7, "training.lr", "must be a number, not '???'"),
    "grid of two": ({5: "  grid: [8, 8]"}, 5, 9, "network.grid", "must be a list of 3 whole numbers or null, not [8, 8]"),
    "size of texts": ({3: "input: {size: [8, x]}"}, 3, 15, "input.size", "must be a list of whole numbers, not [8, 'x']"),
    "size of zero": ({3: "input: {size: [8, 0]}"}, 3, 15, "input.size", "must be at least 1, not 0"),
    "size of three": ({3: "input: {size: [8, 8, 3]}"}, 3, 15, "input.size", "must be [H, W] of an image or [D] of a vector, not 3 numbers"),
    "two channels": ({3: "input: {size: [8, 8], channels: 2}"}, 3, 33, "input.channels", "must be 1 (grey) or 3 (colour), not 2"),
    "four channels": ({3: "input: {size: [8, 8], channels: 4}"}, 3, 33, "input.channels", "must be at most 3, not 4"),
    "seed below zero": ({2: "seed: -1"}, 2, 7, "seed", "must be at least 0, not -1"),
    "no epochs": ({18: "    training: {epochs: 0}"}, 18, 24, "tasks[1].training.epochs", "must be at least 1, not 0"),
    "no iterations": ({6: "  iterations: 0"}, 6, 15, "network.iterations", "must be at least 1, not 0"),
    "no learning": ({12: "  lr: 0"}, 12, 7, "training.lr", "must be greater than 0, not 0.0"),
    "not a number": ({12: "  lr: .nan"}, 12, 7, "training.lr", "must be a finite number, not nan"),
    "infinite": ({8: "penalties: {weight: .inf}"}, 8, 21, "penalties.weight", "must be a finite number, not inf"),
    "negative penalty": ({8: "penalties: {weight: -0.3}"}, 8, 21, "penalties.weight", "must be at least 0, not -0.3"),
    "margin in percent": ({9: "learner: {margin: 2}"}, 9, 19, "learner.margin", "must be at most 1, not 2.0"),
    "unknown rule": ({7: "  update: residual_out"}, 7, 11, "network.update", "'residual_out' is not one of plain, residual_output, residual_input, residual_both (did you mean residual_output?)"),
    "unknown learner": ({9: "learner: {name: si}"}, 9, 17, "learner.name", "'si' is not one of neural_pruning, naive, ewc, replay, lwf, joint"),
    "unknown learner parameter": ({9: "learner: {name: ewc, params: {lamda: 1}}"}, 9, 38, "learner.params.lamda", "unknown parameter of learner ewc (did you mean lambda?)"),
    "parameter of no learner": ({9: "learner: {params: {x: 1}}"}, 9, 23, "learner.params.x", "unknown parameter of learner neural_pruning; it has none"),
    "learner parameter of a wrong type": ({9: "learner: {name: replay, params: {memory: 1.5}}"}, 9, 42, "learner.params.memory", "must be a whole number of at least 1, not 1.5"),
    "path as a name": ({14: "  - name: ../first"}, 14, 11, "tasks[0].name", f"'../first' must be at most 64 {NAMES}"),
    "hidden file as a name": ({1: "name: .ssh"}, 1, 7, "name", f"'.ssh' must be at most 64 {NAMES}"),
    "long name": ({1: f"name: {'a' * 65}"}, 1, 7, "name", f"'{'a' * 57}...' must be at most 64 {NAMES}"),
    "device as a name": ({14: "  - name: nul"}, 14, 11, "tasks[0].name", "'nul' is reserved; choose another name"),
    "owner as a name": ({14: "  - name: input"}, 14, 11, "tasks[0].name", "'input' is reserved; choose another name"),
    "same name": ({16: "  - name: first"}, 16, 11, "tasks[1].name", "'first' is the name of tasks[0] already; names must differ"),
    "same name in capitals": ({16: "  - name: FIRST"}, 16, 11, "tasks[1].name", "'FIRST' is the name of tasks[0] already; names must differ"),
    "fallback to itself": ({15: "    source: edges\n    fallback: edges"}, 16, 15, "tasks[0].fallback", "is the source itself, 'edges': name another source, or none"),
    "fallback parameters alone": ({15: "    source: edges\n    fallback_params: {train: 9}"}, 16, 22, "tasks[0].fallback_params", "has no use without fallback"),
    "grid and neurons": ({6: "  neurons: 500"}, 6, 12, "network.neurons", "is given beside grid: keep one of them and set the other to null"),
    "neither grid nor neurons": ({5: ""}, 6, 3, "network", "needs grid: [X, Y, Z], or neurons: the total number without a grid, or layers: of a feedforward network"),
    "grid and layers": ({6: "  layers: [9]", 7: ""}, 6, 11, "network.layers", "is given beside grid: keep one of them and set the other to null"),
    "an empty layer": ({5: "  layers: [9, 0]", 6: "", 7: ""}, 5, 11, "network.layers", "must be at least 1, not 0"),
    "iterations against layers": ({5: "  layers: [9, 9, 9]", 7: ""}, 6, 15, "network.iterations", "must be 4 with 3 hidden layer(s), not 3: each iteration carries the data one layer on; leave the key out, it follows from layers"),
    "update against layers": ({5: "  layers: [9, 9]"}, 7, 11, "network.update", "must be 'plain' with 2 hidden layer(s), not 'residual_both': each iteration carries the data one layer on; leave the key out, it follows from layers"),
    "inputs that receive, against layers": ({5: "  layers: [9, 9]", 7: "  inputs_receive: true"}, 7, 19, "network.inputs_receive", "must be false with 2 hidden layer(s), not true: each iteration carries the data one layer on; leave the key out, it follows from layers"),
    "iterations of one task against layers": ({5: "  layers: [9, 9]", 7: "", 18: "    iterations: 4"}, 18, 17, "tasks[1].iterations", "must be 3, as network.layers asks for"),
    "early readout of layers": ({5: "  layers: [9, 9]", 7: "", 8: "penalties: {early_readout: 0.5}"}, 8, 28, "penalties.early_readout", "has no use with network.layers: only the last layer is read"),
    "a billion neurons in layers": ({5: "  layers: [1000000000, 1]", 6: "", 7: ""}, 5, 11, "network.layers", "means 1,000,000,076 neurons, whose matrix W would need 4 EB, and training four times that; at most 100,000 neurons (40 GB) are possible"),
    "no hidden plane": ({5: "  grid: [8, 8, 1]"}, 5, 9, "network.grid", "has 1 plane(s), but 1 for the input and at least one for hidden neurons are needed"),
    "no hidden plane for colour": ({3: "input: {size: [8, 8], channels: 3}"}, 5, 9, "network.grid", "has 3 plane(s), but 3 for the input and at least one for hidden neurons are needed"),
    "ports do not fit": ({5: "  neurons: 75"}, 5, 12, "network.neurons", "75 neurons cannot hold 64 input neurons, 11 output neurons of 2 task(s) and one hidden neuron: at least 76 are needed"),
    "a billion neurons": ({5: "  neurons: 1000000000"}, 5, 12, "network.neurons", "means 1,000,000,000 neurons, whose matrix W would need 4 EB, and training four times that; at most 100,000 neurons (40 GB) are possible"),
    "a large grid": ({5: "  grid: [1000, 1000, 1000]"}, 5, 9, "network.grid", "means 1,000,000,011 neurons, whose matrix W would need 4 EB, and training four times that; at most 100,000 neurons (40 GB) are possible"),
    "length without a grid": ({5: "  neurons: 500", 8: "penalties: {synapse_length: 1e-4}"}, 8, 29, "penalties.synapse_length", "needs network.grid: without a grid synapses have no length"),
    "momentum without sgd": ({12: "  momentum: 0.9"}, 12, 13, "training.momentum", "is for sgd, but the optimizer is adam"),
    "momentum of one task": ({18: "    training: {momentum: 0.9}"}, 18, 26, "tasks[1].training.momentum", "is for sgd, but the optimizer is adam"),
    "prox_adam without adam": ({8: "penalties: {method: prox_adam}", 12: "  optimizer: sgd"}, 8, 21, "penalties.method", "prox_adam needs Adam's second moments, but the optimizer is sgd"),
    "large shift": ({15: "    source: edges\n    augment: {shift: 8}"}, 16, 22, "tasks[0].augment.shift", "must be smaller than the image, [8, 8], not 8"),
    "python object": ({2: "seed: !!python/object/apply:os.system [ls]"}, 2, 7, "seed", "tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed: a curriculum is data"),
    "binary": ({1: "name: !!binary aGk="}, 1, 7, "name", "tag 'tag:yaml.org,2002:binary' is not allowed: a curriculum is data"),
    "environment": ({1: "name: ${oc.env:HOME}"}, 1, 7, "name", "'${oc.env:HOME}' is not read: only a whole value that names a key, such as ${training.lr}, is"),
    "reference to nothing": ({2: "seed: ${training.leaf}"}, 2, 7, "seed", "'${training.leaf}' names no key of this curriculum"),
    "reference to a section": ({2: "seed: ${training}"}, 2, 7, "seed", "'${training}' names more than one value of this curriculum"),
    "reference in a circle": ({2: "seed: ${seed}"}, 2, 7, "seed", "'${seed}' refers to itself"),
    "huge number": ({2: f"seed: {'9' * 5000}"}, 2, 7, "seed", f"'{'9' * 57}...' is not a number that can be read"),
    "half a character": ({1: 'name: "\\ud800"'}, 1, 7, "name", "has half a character (a lone surrogate)"),
    "key that is a list": ({2: "? [a]\n: 3"}, 2, 3, "", "a key must be plain text"),
    "merge of a text": ({2: "<<: text"}, 2, 1, "<<", "merges mappings only (<<: *anchor)"),
    "broken YAML": ({2: "seed: [1, 2"}, 3, 6, "", "not readable as YAML: while parsing a flow sequence expected ',' or ']', but got ':'"),
    "tab": ({11: "\tepochs: 2"}, 11, 1, "", "not readable as YAML: while scanning for the next token found character '\\t' that cannot start any token"),
    "control character": ({2: "seed: \x07"}, 2, 7, "", "character U+0007 is not allowed in YAML"),
    "two documents": ({2: "---"}, 2, 1, "", "not readable as YAML: expected a single document in the stream but found another document"),
    "anchor in itself": ({8: "penalties: &a {x: *a}"}, 8, 12, "", "not readable as YAML: anchors expand to an anchor that contains itself"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_each_mistake_has_its_sentence_and_its_place(tmp_path, case):
    lines, *expected = BAD[case]
    found = problems(write(tmp_path, edited(lines)))
    assert tuple(expected) in found, "\n".join(map(str, found))
    # A mistake may show at two ends (a key that is misspelt is missing, too), not more.
    assert len(found) <= 2, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("lines", "line", "key", "part"),
    [
        ({15: "    source: edgs"}, 15, "tasks[0].source", "'edgs' is not a task source (did you mean edges?)"),
        ({15: "    source: edges\n    fallback: nothing"}, 16, "tasks[0].fallback", "is not a task source; there are edges,"),
        ({15: "    source: edges\n    params: {trian: 9}"}, 16, "tasks[0].params.trian", "did you mean 'train'?"),
        ({15: "    source: edges\n    params: {train: x}"}, 16, "tasks[0].params.train", "whole number"),
        ({15: "    source: edges\n    params: 3"}, 16, "tasks[0].params", "must be a mapping of keys, not 3"),
        ({15: "    source: a.b"}, 14, "tasks[0].params.classes", "needs this parameter"),
        ({15: "    source: spheres"}, 15, "tasks[0].source", "vectors"),
        ({15: "    source: edges\n    fallback: spheres"}, 16, "tasks[0].fallback", "vectors"),
        ({3: "input: {size: [64]}"}, 15, "tasks[0].source", "images"),
    ],
)  # fmt: skip
def test_sources_check_their_parameters(tmp_path, lines, line, key, part):
    found = problems(write(tmp_path, edited(lines)))
    assert any((one[0], one[2]) == (line, key) and part in one[3] for one in found), "\n".join(map(str, found))


def test_vectors_and_a_grid(tmp_path):
    text = edited({3: "input: {size: [10]}", 15: "    source: spheres", 17: "    source: spheres"})
    assert problems(write(tmp_path, text)) == [
        (
            5,
            9,
            "network.grid",
            "has planes of 8 x 8 = 64 neurons, but input.size says vectors of 10: a vector fills the first plane "
            "exactly; give neurons instead of grid",
        )
    ]
    assert load(write(tmp_path, text), ["network.grid=null", "network.neurons=100"]).network.neurons == 100


def test_ports_count_the_larger_of_source_and_fallback(tmp_path):
    text = edited({5: "  neurons: 80", 15: "    source: edges\n    fallback: digits"})
    assert [problem[3] for problem in problems(write(tmp_path, text))] == [
        "80 neurons cannot hold 64 input neurons, 16 output neurons of 2 task(s) and one hidden neuron: at least 81 "
        "are needed"
    ]


def test_all_problems_come_at_once_in_the_order_of_the_text(tmp_path):
    text = edited({2: "sed: 0", 5: "  grid: [8, 8]", 7: "  update: x", 11: "  epochs: 0", 14: "  - name: a/b"})
    found = problems(write(tmp_path, text), "training.lr=-1")
    assert [(line, key) for line, _, key, _ in found] == [
        (2, "sed"),
        (5, "network.grid"),
        (7, "network.update"),
        (11, "training.epochs"),
        (14, "tasks[0].name"),
        (1, "training.lr"),
    ]


def test_very_many_problems_are_counted(tmp_path):
    found = problems(write(tmp_path, GOOD + "".join(f"x{i}: 1\n" for i in range(500))))
    assert len(found) == 201
    assert found[-1][3] == "and 300 more problems"


# Files that are no curricula ----------------------------------------------------------------------------------------


def test_files_that_cannot_be_opened(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"vision\.yaml: no such file; the folder has base\.yaml"):
        load(tmp_path / "vision.yaml")
    with pytest.raises(UserError, match="not a file; give the curriculum inside the folder"):
        load(tmp_path)
    with pytest.raises(UserError, match="cannot be opened"):
        load(tmp_path / ("x" * 5000))
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "a\0b"))
    (tmp_path / "latin.yaml").write_bytes(b"name: a\nname: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: not UTF-8 text \(byte 0xe9 in line 2\)"):
        load(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="larger than 256 kB: not a curriculum"):
        load(write(tmp_path, "#" * 300_000, "large.yaml"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty: a curriculum needs name, input, network and tasks"),
        ("# only a comment\n", "is empty: a curriculum needs name, input, network and tasks"),
        ("hello", "a curriculum is a mapping of keys, not 'hello'"),
        ("- a\n- b\n", "a curriculum is a mapping of keys, not ['a', 'b']"),
    ],
)
def test_texts_that_are_no_curricula(tmp_path, text, sentence):
    assert [problem[3] for problem in problems(write(tmp_path, text))] == [sentence]


N = 250_000
HOSTILE = {
    "deep lists": "[" * N,
    "deep mappings": "{" * N,
    "deep dashes": "- " * (N // 2),
    "deep keys": "? " * (N // 2),
    "long list": "a: [" + "1," * (N // 2) + "]",
    "long text": "a: " + "x " * (N // 2),
    "long key": "x" * N + ": 1",
    "long unknown key of a source": edited({15: f"    source: edges\n    params: {{? {'tr' * 50_000} : 1}}"}),
    "many keys": "".join(f"k{i}: 1\n" for i in range(N // 10)),
    "many tasks": GOOD + "".join(f"  - {{name: t{i}, source: edges}}\n" for i in range(3000)),
    "many bad tasks": GOOD + "".join("  - {name: {x: 1}, source: spheres, params: {shells: 4}}\n" for _ in range(800)),
    "params that are a list": GOOD + "  - {name: last, source: spheres, params: [x]}\n",
    "many references": GOOD + "x: [" + "${x}," * 15_000 + "]",
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "laughs by merge": "a: &a {x: 1, y: 2}\n"
    + "".join(
        f"{new}: &{new} {{<<: [{','.join(['*' + old] * 9)}]}}\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "sexagesimal": "seed: " + "1:" * 50_000 + "1",
    "escape beyond Unicode": 'name: "\\UFFFFFFFF"',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_end_in_a_sentence_soon(tmp_path, name):
    path = write(tmp_path, HOSTILE[name])
    start = time.process_time()
    found = problems(path)
    assert time.process_time() - start < 4
    assert all(len(message) < 700 and len(key) < 200 for *_, key, message in found)


def test_mutated_curricula_never_end_in_anything_but_a_sentence(tmp_path):
    """A short run of the fuzz target: characters, tokens and lines are deleted, repeated, swapped and replaced."""
    rng = random.Random(0)
    tokens = [
        *"[]{}:,-?&*!|>'\"%@`#\t\n \0é\U0001f600",
        "<<: *a",
        "&a ",
        "*a",
        "${",
        "${name}",
        "!!int ",
        "1e999",
        "-1",
    ]
    tokens += ["null", "true", ".nan", "0x", "---\n", "? ", "[[", "\\ud800", "'", "extends: base.yaml\n", "~", "9" * 30]
    refused = 0
    for _ in range(400):
        text = GOOD
        for _ in range(rng.randint(1, 6)):
            i = rng.randrange(len(text) + 1)
            j = min(len(text), i + rng.choice([0, 1, 1, 2, 5, 20]))
            text = text[:i] + rng.choice([rng.choice(tokens), "", text[i:j] * 2]) + text[j:]
        try:
            load(write(tmp_path, text))
        except UserError as error:
            refused += 1
            assert str(error)
    assert refused > 200
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"], "nothing else is written"
