"""README and docs/ do what they say: their commands, curricula and programs are carried out, page by page.

A page is read from top to bottom in an empty folder. Blocks named file=NAME are saved; each YAML block is loaded; each
Python block runs; shell lines go to the command line of this package. In the tutorial training is real, but short; on
the other pages `nesa run` is checked only. What sets up environments is for .ci/run, which takes it from the README.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nesa.cli import commands, parser
from nesa.config.loader import extend_curriculum, load

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
SHORT = ["training.epochs=1", "learner.heal_epochs=0", "learner.grow=true"]
FEWER = {"edges": "tasks.edges.params={train: 400, test: 100}"}


@dataclass(frozen=True)
class Block:
    language: str
    options: dict[str, str]
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """Every fenced block: ```language key=value ..."""
    lines = (ROOT / page).read_text().splitlines()
    start: int | None = None
    for at, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = at
            continue
        language, *words = lines[start][3:].split()
        options = dict(word.split("=", 1) for word in words)
        yield Block(language, options, "\n".join(lines[start + 1 : at]) + "\n", start + 1)
        start = None
    assert start is None, f"{page}: the block that begins in line {(start or 0) + 1} has no end"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty current folder with a cache of its own, beside the shipped curricula as in a clone."""
    (tmp_path / "curricula").symlink_to(ROOT / "curricula")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def nesa(words: list[str], *, train: bool) -> int:
    """One command line, carried out; one that trains is shortened, or only checked."""
    action = words[0]
    if action in ("run", "sweep", "resume", "extend", "verify", "report", "tasks", "compare", "export") and not train:
        args = parser.parse(words)
        if action == "run":
            load(args.curriculum, args.overrides)
        return 0
    if action == "run":
        args = parser.parse(words)
        tasks = {task.name for task in load(args.curriculum, args.overrides).tasks}
        if args.seeds:  # the same once more with other seeds
            return 0
        words = [*words, *SHORT, *(FEWER[name] for name in tasks & FEWER.keys()), "--quiet"]
    if action == "extend":
        words = [*words, "tasks.shapes.training.epochs=1", "tasks.shapes.params={train: 400, test: 100}", "--quiet"]
    if action == "tasks" and "--preview" in words:
        parser.parse(words)
        return 0
    return commands.main(words)


def shell(line: str, *, train: bool) -> int:
    words = shlex.split(line, comments=True)
    program, *rest = words
    match Path(program).name:
        case "nesa":
            return nesa(rest, train=train)
        case "cat":
            assert all(Path(name).read_text() for name in rest)
        case "python":
            runpy.run_path(rest[0])
        case "tensorboard":
            assert rest[0] == "--logdir" and (not train or list(Path(rest[1]).rglob("events.out.tfevents.*")))
        case "python3":  # sets up an environment: .ci/run does that
            assert rest[:3] == ["-m", "venv", ".venv"] and "pip install" in line
            last = shlex.split(line.rpartition("&&")[2])
            assert "nesa" not in Path(last[0]).name or nesa(last[1:], train=False) == 0
        case _:
            pytest.fail(f"no test knows how to try: {line}")
    return 0


@pytest.mark.parametrize("page", PAGES)
def test_the_page_does_what_it_says(page, empty, capsys):
    for block in blocks(page):
        where = f"{page}, line {block.line}"
        if name := block.options.get("file"):
            (empty / name).write_text(block.text)
        if block.language == "yaml":
            path = empty / (name or "block.yaml")
            path.write_text(block.text)
            behind = block.options.get("behind")
            assert (extend_curriculum(path, load(empty / behind)) if behind else load(path)).tasks, where
        elif block.language == "python":
            if not name:
                exec(compile(block.text, where, "exec"), {"__name__": "page"})
        elif block.language == "bash":
            for line in block.text.splitlines():
                done = shell(line, train=page == "docs/tutorial.md")
                assert done == int(block.options.get("exit", 0)), f"{where}: {line}\n{capsys.readouterr().err}"
        else:
            pytest.fail(f"{where}: a block in {block.language or 'no language'}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page):
    """`nesa ...` between backticks, with options and overrides; a lone command name is enough."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for line in re.findall(r"`(?:\.venv/bin/)?nesa ([^`]+)`", text):
        words = shlex.split(line.partition(" >")[0])
        assert words[0] in commands.COMMANDS or words[0] in ("COMMAND", "--help"), line
        if len(words) > 1 and words[0] != "COMMAND" and "--help" not in words:
            parser.parse(words)


@pytest.mark.parametrize("page", [*PAGES, "docs/results/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_names_that_the_pages_give_exist():
    """Dotted names between backticks, such as `urn.measures.structure.mean_depth`, lead to something."""
    import importlib

    for page in PAGES:
        for name in set(re.findall(r"`((?:urn|nesa)(?:\.\w+)+)[`(]", (ROOT / page).read_text())):
            parts = name.split(".")
            for cut in range(len(parts), 0, -1):
                try:
                    found = importlib.import_module(".".join(parts[:cut]))
                except ModuleNotFoundError:
                    continue
                for part in parts[cut:]:
                    found = getattr(found, part, None)
                    assert found is not None, f"{page}: {name}"
                break


def test_every_column_of_the_table_is_explained():
    from nesa.run_folder.tables import ACCUMULATION

    text = (ROOT / "docs" / "method.md").read_text()
    assert not [column for column in ACCUMULATION if f"`{column}`" not in text]


def test_continuous_integration_takes_its_command_from_the_readme():
    def command(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ROOT / "scripts" / "readme-command", name], capture_output=True, text=True, timeout=10)

    assert command("test").stdout.endswith(".venv/bin/python -m pytest -q\n")
    assert command("run").stdout.endswith(".venv/bin/nesa run curricula/vision.yaml\n")
    assert command("none").returncode == 1
