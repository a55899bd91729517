"""Hold the code against docs/architecture.md: who may import whom, what a module costs, names, first lines, hooks."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# The ladder: a package may import from those to its right, lazily and for typing too. "nesa" is its root files.
LADDER = {
    "nesa.cli": "experiment reports verification figures inference training analysis run_folder config datasets",
    "nesa.experiment": "reports verification figures inference training analysis run_folder config datasets",
    "nesa.reports": "figures inference analysis run_folder config datasets",
    "nesa.verification": "inference training run_folder config datasets",
    "nesa.figures": "analysis run_folder config datasets",
    "nesa.inference": "training run_folder config datasets",
    "nesa.training": "run_folder config datasets",
    "nesa.analysis": "run_folder config datasets",
    "nesa.run_folder": "config datasets",
    "nesa.config": "datasets",
    "nesa.datasets": "",
    "nesa": "",
    "urn": "",
}
USES_URN = {"nesa.experiment", "nesa.verification", "nesa.inference", "nesa.training"}
PUBLIC_FACE = {"nesa", "nesa.__main__"}  # nesa/__init__ names what the packages define, and imports it on first use

HEAVY = {"torch", "torchvision", "avalanche", "matplotlib", "skimage", "sklearn", "tensorboard", "scipy"}
# These answer at once, with everything that they import in turn: --help, check, tasks, schema, compare.
LIGHT = (
    *("nesa", "nesa.cli.commands", "nesa.cli.parser", "nesa.config.loader", "nesa.config.json_schema"),
    *("nesa.datasets.registry", "nesa.run_folder.tables", "nesa.run_folder.reader"),
    *("nesa.analysis.comparison", "nesa.reports.comparison_report"),
)
READERS = ("nesa.reports", "nesa.figures", "nesa.analysis", "nesa.config", "nesa.run_folder", "nesa.datasets")
DISTRIBUTIONS = {  # the name on the package index where it is not that of the module
    "PIL": "pillow",
    "avalanche": "avalanche-lib",
    "mpl_toolkits": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
MOST_LINES = 400


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    name_of(path): ast.parse(path.read_text(), str(path))
    for package in ("urn", "nesa")
    for path in sorted((ROOT / package).rglob("*.py"))
}
PACKAGES = {name_of(path) for package in ("urn", "nesa") for path in (ROOT / package).rglob("__init__.py")}


def package_of(module: str) -> str:
    """The rung of the ladder on which a module stands."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in LADDER else parts[0]


def names_of(module: str, node: ast.stmt) -> set[str]:
    """What one import statement of `module` imports; modules of this project in full, others as they are written."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert node.level == 0, f"{module}, line {node.lineno}: a relative import"
    base = node.module or ""
    return {full if (full := f"{base}.{alias.name}") in TREES else base for alias in node.names}


@functools.cache
def imports(module: str, *, at_import: bool = False) -> frozenset[str]:
    """All imports of a module, lazy and typing-only ones too; with `at_import` those that importing it carries out."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(TREES[module].body)
    while waiting:
        node = waiting.pop()
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if at_import and (typing or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            continue
        if isinstance(node, ast.stmt):
            found |= names_of(module, node)
        waiting += ast.iter_child_nodes(node)
    return frozenset(found)


def tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def reached(module: str, *, at_import: bool) -> dict[str, str]:
    """Every module of the project that importing `module` imports, each with the one that imports it."""
    found, waiting = {module: module}, [module]
    while waiting:
        here = waiting.pop()
        wanted = imports(here, at_import=at_import) | {here.rpartition(".")[0]}  # a package comes before its modules
        for name in sorted(wanted & TREES.keys() - found.keys()):
            found[name] = here
            if at_import or name not in PUBLIC_FACE:
                waiting.append(name)
    return found


# Who may import whom ------------------------------------------------------------------------------------------------


def test_the_ladder_holds():
    """Every import, lazy and typing-only ones included, leads down the ladder."""
    wrong = []
    for module in TREES.keys() - PUBLIC_FACE:
        here = package_of(module)
        allowed = {here, "nesa", *(f"nesa.{name}" for name in LADDER[here].split())}
        if here in USES_URN or here == "urn":
            allowed.add("urn")
        if here == "urn":
            allowed = {"urn"}
        used = {package_of(name) for name in imports(module) if name.split(".")[0] in ("urn", "nesa")}
        wrong += [f"{module} imports {name}" for name in sorted(used - allowed)]
    assert not wrong


def test_there_is_no_circle():
    """Neither among modules, lazy and typing-only imports counted, nor among the packages of nesa."""
    waiting = {name: imports(name) & TREES.keys() - {name} for name in TREES.keys() - PUBLIC_FACE}
    while free := [name for name, wanted in waiting.items() if not wanted & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"these modules import one another in a circle: {sorted(waiting)}"


def test_the_network_needs_torch_numpy_and_scipy_alone():
    allowed = {"torch", "numpy", "scipy", "urn"} | sys.stdlib_module_names
    parts = [name for name in TREES if name.partition(".")[0] == "urn"]
    assert parts and not {name: extra for name in parts if (extra := tops(imports(name)) - allowed)}


def test_avalanche_is_imported_in_one_module():
    assert {name for name in TREES if "avalanche" in tops(imports(name))} == {"nesa.training.strategies.avalanche_api"}


@pytest.mark.parametrize("module", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy(module):
    chain = reached(module, at_import=True)
    heavy = {name: asked & HEAVY for name in chain if (asked := tops(imports(name, at_import=True))) & HEAVY}
    assert not heavy, f"{module} reaches {heavy} through {chain}"


def test_readers_of_a_run_know_nothing_of_training():
    for module in TREES:
        if module.startswith(READERS):
            assert not [name for name in reached(module, at_import=False) if name.startswith(("nesa.training", "urn"))]


# Names and texts ----------------------------------------------------------------------------------------------------


def test_each_module_is_one_noun():
    vague = {"util", "utils", "common", "base", "helper", "helpers", "misc", "core", "tools"}
    assert not [name for name in TREES if name.rpartition(".")[2] in vague]
    ends = {name: max((node.end_lineno or 0 for node in tree.body), default=0) for name, tree in TREES.items()}
    assert not {name: lines for name, lines in ends.items() if lines > MOST_LINES}


# The first word of a module's or public function's docstring: what it does, in the imperative.
VERBS = set(
    re.findall(
        r"\w+",
        """Add Adapt Append Apply Approximate Ask Assemble Augment Average Begin Bound Build Cache Call Check Checkpoint
    Claim Collect Combine Compare Complete Compress Compute Contain Convert Copy Count Create Cut Declare Decode Decide
    Define Delay Delete Derive Describe Detect Digest Display Divide Do Download Draw Drop Dump Embed Estimate Evaluate
    Examine Exclude Export Extend Extract Factor Fill Find Finish Fit Flatten Forecast Format Freeze Gather Generate
    Give Group Grow Hold Import Infer Initialise Interpolate Interrupt Iterate Join Keep Label Lay Learn Leave Limit
    List Load Locate Lock Log Look Make Map Mark Mask Match Measure Merge Mirror Move Multiply Name Normalise Number
    Offer Open Order Override Pack Parse Partition Penalise Place Plan Point Preview Print Process Prove Prune Put
    Provide Raise Rank Read Rebind Rebuild Record Recognise Reduce Refuse Release Remove Render Replace Report Represent
    Require Resize Resolve Restore Resume Return Rewind Rotate Round Run Sample Save Say Scale Score Search Select Send
    Serve Set Shard Share Shift Show Shrink Shuffle Sort Split Standardise Start State Step Stop Store Subtract Sum
    Summarise Suggest Take Tell Test Threshold Time Track Train Translate Turn Unpack Unroll Unshard Update Use
    Validate Verify Wait Walk Warn Wrap Write""",
    )
)


def first_lines() -> Iterable[tuple[str, str | None]]:
    """(place, first line of the docstring) of every module and every public function at the top of a module."""
    for module, tree in TREES.items():
        if tree.body:
            yield module, (ast.get_docstring(tree) or "").partition("\n")[0]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{module}.{node.name}", (ast.get_docstring(node) or "").partition("\n")[0]


def test_modules_and_functions_open_with_a_plain_sentence():
    wrong = {}
    for place, line in first_lines():
        words = (line or "").split()
        sentence = (line or "").rstrip().endswith((".", ":", "?"))
        if not sentence or words[0].rstrip(",:") not in VERBS:
            wrong[place] = line
    assert not wrong


# Words of the old dialect, and what stands in their place (docs/glossary.md). Stored names are exempt: keys of YAML,
# events, columns and files of a run, and flags of the command line stay as they were.
DIALECT = {
    r"leaflets?": "comparison report",
    r"manuscripts?": "document",
    r"rivals?": "baseline learner",
    r"settl(?:e|es|ing)": "prune",
    r"heal(?:s|ed|ing)?": "fine-tune",
    r"films?": "animation",
    r"slabs?": "gradient buffer",
    r"likeness(?:es)?": "similarity",
    r"the door": "the curriculum reader",
    r"dealt": "sharded",
    r"wak(?:e|es|en|ing)|woken|awake": "active",
    r"catch(?:es)? up|caught up": "apply deferred steps",
    r"obey(?:s|ed)?": "raise if pending",
    r"hears?|heard": "is called with",
}
STORED = re.compile(
    r"heal_(?:epochs|lr)|[\"'`]settled[\"'`]|no-film|no_film|film\.pt|\"film\"|settled level|unsettled|settled mean",
    re.IGNORECASE,
)


def test_no_word_of_the_old_dialect_is_left():
    files = [*(ROOT / "urn").rglob("*.py"), *(ROOT / "nesa").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    wrong = []
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for word, plain in DIALECT.items():
                if found := re.search(rf"\b(?:{word})\b", STORED.sub("", line), re.IGNORECASE):
                    wrong.append(f"{path.relative_to(ROOT)}:{number}: {found[0]!r}, say {plain!r}")
    assert not wrong, "\n".join(wrong)


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


# The step ------------------------------------------------------------------------------------------------------------

HOOK = re.compile(r"^\s*(?:before|after)_[a-z_]+$")


def test_architecture_lists_every_hook_in_the_order_in_which_it_runs():
    """The table of docs/architecture.md against one task that is trained here, hook by hook."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("<!-- hooks -->")[2].partition("<!-- end of hooks -->")[0]
    rows = [[cell.strip(" `") for cell in line.strip("| ").split("|")] for line in table.splitlines() if "`" in line]
    listed = [(hook, plugin) for hook, plugin, *_ in rows]
    from hook_order import hooks_of_one_step

    assert listed == hooks_of_one_step()


# The package ---------------------------------------------------------------------------------------------------------


def test_what_is_imported_is_what_is_declared():
    used = set().union(*(tops(imports(name)) for name in TREES)) - {"urn", "nesa"} - sys.stdlib_module_names
    declared = {re.split(r"[^\w-]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert {DISTRIBUTIONS.get(name, name) for name in used} == declared


def test_every_dependency_has_an_upper_end():
    lines = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        lines += extra
    assert not [line for line in lines if "<" not in line and "==" not in line]


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for top in ("urn", "nesa") for path in (ROOT / top).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


URN = {"URN", "UPDATES", "Layout", "Distance", "Penalty", "Proximal", "embed", "extract"}
NESA = {"NeuralPruning", "__version__", "load"}


@pytest.mark.parametrize(("package", "least"), [("urn", URN), ("nesa", NESA)])
def test_public_names(package, least):
    module = importlib.import_module(package)
    assert least <= set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))
    assert not [name for name in module.__all__ if f"{package}.{name}" in TREES], "a submodule would be hidden"
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_the_version_is_one():
    assert importlib.import_module("nesa").__version__ == PROJECT["project"]["version"]
