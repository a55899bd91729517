"""The house as docs/index.md draws it: who may import whom, what lies where, what is public. Sources are parsed.

Imports inside functions count for what a package may use at all, and do not count for what importing a module costs.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = {"torch", "torchvision", "avalanche", "matplotlib", "skimage", "sklearn", "tensorboard", "scipy"}
# These must stay light, with everything that they import in turn: --help, check, tasks and schema go through them.
LIGHT = (
    *(
        "nesa",
        "nesa.cli.commands",
        "nesa.cli.parser",
        "nesa.config.loader",
        "nesa.config.json_schema",
        "nesa.datasets.registry",
        "nesa.run_folder.tables",
    ),
    *("nesa.analysis.comparison", "nesa.reports.comparison_report"),
)
RIVALS = {
    "nesa.training.strategies.baselines",
    "nesa.training.strategies.shared_model",
    "nesa.training.strategies.baseline_plugins",
}
AVALANCHE = {
    "nesa.training.strategies.models",
    "nesa.training.strategies.neural_pruning",
    "nesa.training.strategies.template",
} | RIVALS
TRAINING = {"nesa.experiment.run", "nesa.training.pruning"} | AVALANCHE
READERS = (
    "nesa.reports.run_report",
    "nesa.figures.connectome_page",
    "nesa.analysis.connectome",
    "nesa.analysis.comparison",
    "nesa.reports.comparison_report",
    "nesa.figures.comparison",
    "nesa.config.loader",
    "nesa.config.json_schema",
    "nesa.run_folder.tables",
    "nesa.figures.run",
)
DISTRIBUTIONS = {  # the name on the package index where it is not that of the module
    "PIL": "pillow",
    "avalanche": "avalanche-lib",
    "mpl_toolkits": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
MOST_LINES = 400  # 60 to 250 is the aim; a module of more than this is no longer one noun


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    name_of(path): ast.parse(path.read_text(), str(path))
    for package in ("urn", "nesa")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def names_of(module: str, node: ast.stmt) -> set[str]:
    """What one import statement of `module` brings in: modules of this project in full, others as they are written."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert node.level == 0, f"{module}, line {node.lineno}: a relative import"
    base = node.module or ""
    return {full if (full := f"{base}.{alias.name}") in TREES else base for alias in node.names}


@functools.cache
def imports(module: str, *, lazy: bool) -> frozenset[str]:
    """The imports of a module; with `lazy` those inside functions too. `if TYPE_CHECKING` imports nothing."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(TREES[module].body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not lazy:
            continue
        else:
            if isinstance(node, ast.stmt):
                found |= names_of(module, node)
            waiting += ast.iter_child_nodes(node)
    return frozenset(found)


def tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def reached(module: str, *, lazy: bool) -> dict[str, str]:
    """Every module of the project that importing `module` imports, each with the one that asked for it."""
    found, waiting = {module: module}, [module]
    while waiting:
        here = waiting.pop()
        wanted = imports(here, lazy=lazy) | {here.rpartition(".")[0]}  # a package comes before its modules
        for name in sorted(wanted & TREES.keys() - found.keys()):
            found[name] = here
            waiting.append(name)
    return found


# Who may import whom ------------------------------------------------------------------------------------------------


def test_the_network_knows_no_pipeline():
    allowed = {"torch", "numpy", "scipy", "urn"} | sys.stdlib_module_names
    parts = [name for name in TREES if name.partition(".")[0] == "urn"]
    assert parts and not {name: extra for name in parts if (extra := tops(imports(name, lazy=True)) - allowed)}


def test_avalanche_is_kept_behind_the_learners():
    users = {name for name in TREES if "avalanche" in tops(imports(name, lazy=True))}
    assert users <= AVALANCHE and "nesa.training.strategies.neural_pruning" in users


@pytest.mark.parametrize("module", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy(module):
    chain = reached(module, lazy=False)
    heavy = {name: asked & HEAVY for name in chain if (asked := tops(imports(name, lazy=False))) & HEAVY}
    assert not heavy, f"{module} reaches {heavy} through {chain}"


@pytest.mark.parametrize("module", [name for name in READERS if name in TREES])
def test_readers_of_a_run_know_nothing_of_training(module):
    assert not reached(module, lazy=True).keys() & TRAINING


def test_imports_run_downwards():
    """No circle among the modules, and each of these knows nothing of those above it: cli, run, strategy, learner."""
    order = [
        "nesa.cli.commands",
        "nesa.experiment.run",
        "nesa.training.strategies.template",
        "nesa.training.strategies.neural_pruning",
        "nesa.training.accumulation",
        "urn.network",
    ]
    for height, module in enumerate(order):
        assert not reached(module, lazy=True).keys() & set(order[:height]) - {module}, module
    waiting = {name: imports(name, lazy=False) & TREES.keys() - {name} for name in TREES}
    while free := [name for name, wanted in waiting.items() if not wanted & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, "these modules import one another in a circle"


# What lies where ----------------------------------------------------------------------------------------------------


def test_each_module_is_one_noun():
    vague = {"util", "utils", "common", "base", "helper", "helpers", "misc", "core", "tools"}
    assert not [name for name in TREES if name.rpartition(".")[2] in vague]
    ends = {name: max((node.end_lineno or 0 for node in tree.body), default=0) for name, tree in TREES.items()}
    assert not {name: lines for name, lines in ends.items() if lines > MOST_LINES}


def test_each_module_says_what_it_is():
    assert not [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]


def test_importing_a_module_does_nothing():
    """Definitions and constants only: no loops, no files, no calls but those that make a constant."""
    quiet = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
    for module, tree in TREES.items():
        for node in tree.body[1:]:
            if module.endswith("__main__") or isinstance(node, quiet):
                continue
            text = ast.unparse(node)
            guarded = isinstance(node, ast.With) and "catch_warnings" in text and "import" in text
            typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            resolver = module == "nesa.config.yaml_tree" and ("_SCALARS" in text or "add_implicit_resolver" in text)
            assert guarded or typing or resolver, f"{module}, line {node.lineno}: {text}"


def test_every_package_is_installed():
    folders = {name_of(path.parent / "__init__.py") for top in ("urn", "nesa") for path in (ROOT / top).rglob("*.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders
    assert not [name for name in folders if not (ROOT / Path(*name.split(".")) / "__init__.py").exists()]


def test_what_is_imported_is_what_is_declared():
    used = set().union(*(tops(imports(name, lazy=True)) for name in TREES)) - {"urn", "nesa"} - sys.stdlib_module_names
    declared = {re.split(r"[^\w-]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert {DISTRIBUTIONS.get(name, name) for name in used} == declared


def test_every_dependency_has_an_upper_end():
    lines = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        lines += extra
    assert not [line for line in lines if "<" not in line and "==" not in line]


# What is public -----------------------------------------------------------------------------------------------------

URN = {"URN", "UPDATES", "Layout", "Metric", "Penalty", "Proximal", "embed", "extract"}
NESA = {"NeuralPruning", "__version__"}


@pytest.mark.parametrize(("package", "least"), [("urn", URN), ("nesa", NESA)])
def test_public_names(package, least):
    module = import_module(package)
    assert least <= set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))
    assert not [name for name in module.__all__ if f"{package}.{name}" in TREES], "a submodule would be hidden"
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_the_version_is_one():
    assert import_module("nesa").__version__ == PROJECT["project"]["version"]
