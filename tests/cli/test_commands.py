"""Test the command line and nesa.progress: arguments, exit codes, what is printed where, and what is imported."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import stored_run
from PIL import Image

from nesa.cli import commands
from nesa.errors import RunFailed, RunFolderError
from nesa.progress import Progress

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "curricula" / "quickstart.yaml"
BAD = "name: a\nsed: 0\ninput: {size: [8, 8]}\nnetwork: {grid: [8, 8, 1]}\ntasks: [{name: a, source: edges}]\n"


@pytest.fixture
def bad(tmp_path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, timeout=60)


# What is imported ---------------------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "avalanche", "matplotlib", "skimage", "sklearn", "tensorboard", "scipy")


@pytest.mark.parametrize(
    ("words", "also"),
    [
        (["--help"], ("numpy", "omegaconf", "yaml", "tqdm")),
        (["run", "--help"], ("numpy", "omegaconf", "yaml", "tqdm")),
        (["check", str(QUICKSTART)], ()),
        (["tasks"], ()),
        (["schema"], ()),
    ],
    ids=lambda words: words[0] if isinstance(words, list) and words else "",
)
def test_nothing_heavy_is_imported(words, also):
    code = (
        "import sys, json; from nesa.cli.commands import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    done = python(code, *words)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    assert not set(modules) & {*HEAVY, *also}


def test_import_nesa_is_light_and_its_names_are_lazy():
    done = python("import sys, nesa; print(sorted(set(sys.modules) & set('torch numpy omegaconf'.split())), dir(nesa))")
    assert done.stdout.startswith("[] ["), done.stderr
    import nesa

    assert {"NeuralPruning", "__version__"} <= set(dir(nesa))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nesa.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("words", "limit"), [(["--help"], 0.3), (["check", str(QUICKSTART)], 1.0)], ids=["help", "check"]
)
def test_speed(words, limit):
    """Processor time of the whole process, the best of three, so that a busy machine does not fail it."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "nesa", *words], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < limit, spent


# Help and arguments -------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_that_work(capsys):
    assert commands.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "exit codes:" in text
    for name in commands.COMMANDS:
        assert f"\n    {name} " in text


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_has_help_with_an_example(capsys, name):
    assert commands.main([name, "--help"]) == 0
    assert f"  nesa {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["check"], "required: CURRICULUM.yaml"),
        (["check", "a.yaml", "--fast"], "unrecognized arguments: --fast"),
        (["verify", "run", "more"], "unrecognized arguments: more"),
        (["run", "a.yaml", "--seeds", "1,1"], "'1,1' is not a list of different whole numbers, such as 0,1,2"),
        (["run", "a.yaml", "--seeds", "one"], "'one' is not a list of different whole numbers, such as 0,1,2"),
        (["run", "a.yaml", "--device", "tpu"], "'tpu' is not cpu, cuda or cuda:N"),
        (["run", "a.yaml", "--name", "../x"], "'../x' is not a folder's name: letters, digits, '_', '-' and '.'"),
    ],
)
def test_wrong_arguments_are_exit_code_2(capsys, words, sentence):
    assert commands.main(words) == 2
    assert sentence in capsys.readouterr().err


def test_version(capsys):
    import nesa

    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nesa {nesa.__version__}\n"


# Commands -----------------------------------------------------------------------------------------------------------


def test_check_says_what_it_found(capsys):
    assert commands.main(["check", str(QUICKSTART)]) == 0
    out = capsys.readouterr().out
    assert "fine. 3 tasks (edges, shapes, digits), grid 16 x 16 x 4, I = 4, learner neural_pruning" in out


def test_check_prints_what_loads_again(capsys, tmp_path):
    from nesa.config.loader import load

    assert commands.main(["check", str(QUICKSTART), "--print", "training.epochs=3", "--debug", "seed=5"]) == 0
    path = tmp_path / "again.yaml"
    path.write_text(capsys.readouterr().out)
    assert load(path) == load(QUICKSTART, ["training.epochs=3", "seed=5"])


def test_check_notes_own_code_and_fallbacks(capsys):
    own = [
        "tasks.digits.source=no_such_module:make",
        "tasks.digits.params={classes: 3}",
        "tasks.digits.fallback=digits",
    ]
    assert commands.main(["check", str(QUICKSTART), *own]) == 0
    out = capsys.readouterr().out
    assert (
        "note: task digits calls your own function no_such_module:make, which `run` imports and `check` has not" in out
    )
    assert "note: task digits falls back to digits, loudly, where no_such_module:make cannot be had" in out


def test_problems_are_lines_without_traceback(capsys, bad):
    assert commands.main(["check", str(bad), "seed=x"]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        f"{bad}:2:1: sed: unknown key (did you mean seed?)",
        f"{bad}:4:17: network.grid: has 1 plane(s), but 1 for the input and at least one for hidden neurons are needed",
        "command line:1:6: seed: must be a whole number, not 'x'",
    ]


def test_debug_shows_the_traceback(bad):
    done = subprocess.run(
        [sys.executable, "-m", "nesa", "check", str(bad), "--debug"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "CurriculumError" in done.stderr


def test_a_missing_file_is_one_line(capsys, tmp_path):
    assert commands.main(["run", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none.yaml: no such file\n"


def test_names_that_the_terminal_cannot_write(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nesa", "check", "caf\u00e9-\udcff.yaml"],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, b"Traceback" in done.stderr, b"no such file" in done.stderr) == (2, False, True)


def test_tasks(capsys):
    from nesa.datasets.registry import SOURCES

    assert commands.main(["tasks"]) == 0
    out = capsys.readouterr().out
    for name, source in SOURCES.items():
        assert name in out and source.difficulty in out
    assert commands.main(["tasks", "edges"]) == 0
    out = capsys.readouterr().out
    assert all(p.name in out and p.help in out for p in SOURCES["edges"].params) and "spheres" not in out
    assert commands.main(["tasks", "edgs"]) == 2
    assert "did you mean 'edges'?" in capsys.readouterr().err
    assert commands.main(["tasks", "--preview", "x.png"]) == 2
    assert "give its name" in capsys.readouterr().err


def test_schema_is_what_is_committed(capsys):
    assert commands.main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "curricula" / "schema.json").read_text()


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m nesa schema | head -1", shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


# run, resume and verify, with stand-ins for what trains -------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Replace nesa.experiment.run and nesa.verification.verify; record their calls, and raise ``fail``."""
    seen = SimpleNamespace(calls=[], fail=None, checks=[])

    def run(curriculum, **more):
        seen.calls.append((curriculum, more))
        if seen.fail:
            raise seen.fail
        return stored_run.write(tmp_path / (more["name"] or "some"))

    def resume(folder, **more):
        seen.calls.append((folder, more))
        if seen.fail:
            raise seen.fail
        return stored_run.write(folder)

    module, verify = ModuleType("nesa.experiment.run"), ModuleType("nesa.verification.verify")
    module.run, module.resume = run, resume  # type: ignore[attr-defined]
    verify.verify = lambda folder, data=None: seen.checks  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nesa.experiment.run", module)
    monkeypatch.setitem(sys.modules, "nesa.verification.verify", verify)
    return seen


def test_run_hands_on_what_was_asked(capsys, runs, tmp_path):
    words = ["run", str(QUICKSTART), "training.epochs=1", "--out", "here", "--name", "x", "--data", "d", "seed=4"]
    assert commands.main(words) == 0
    (curriculum, more) = runs.calls[0]
    assert (curriculum.seed, curriculum.training.epochs) == (4, 1)
    assert isinstance(more.pop("progress"), Progress)
    assert more == {
        "out": Path("here"),
        "name": "x",
        "seed": 4,
        "device": "cpu",
        "data": Path("d"),
        "animate": True,
        "command": ["nesa", *words],
    }
    lines = capsys.readouterr().out.splitlines()
    folder = tmp_path / "x"
    assert lines[-3:] == [
        f"run: {folder}",
        f"see: tensorboard --logdir {folder} --samples_per_plugin images=100",
        f"     nesa report {folder}",
    ]
    assert lines[0].split()[:3] == ["task", "test", "%"] and [line.split()[0] for line in lines[1:3]] == [
        "easy",
        "hard",
    ]
    assert max(map(len, lines[:-2])) <= 80


def test_run_several_seeds(runs, tmp_path):
    words = ["--seeds", "3,5", "--name", "x", "--device", "cuda:1", "--out", str(tmp_path)]
    assert commands.main(["run", str(QUICKSTART), *words]) == 0
    assert [(c.seed, more["seed"], more["name"]) for c, more in runs.calls] == [(3, 3, "x-seed3"), (5, 5, "x-seed5")]
    assert runs.calls[0][1]["device"] == "cuda:1"


def test_a_bad_curriculum_never_reaches_the_run(runs, bad):
    assert commands.main(["run", str(bad)]) == 2
    assert runs.calls == []


def test_resume(capsys, runs, tmp_path):
    assert commands.main(["resume", str(tmp_path / "x"), "--data", "d"]) == 0
    folder, more = runs.calls[0]
    assert isinstance(more.pop("progress"), Progress)
    assert (folder, more) == (tmp_path / "x", {"data": Path("d"), "device": "cpu", "animate": True})
    assert f"run: {tmp_path / 'x'}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunFailed("loss is not finite in step 3"), 1, "error: loss is not finite in step 3\n"),
        (RunFolderError("runs/x is locked by process 7"), 2, "error: runs/x is locked by process 7\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (commands.Terminated(), 143, "terminated\n"),
        (ZeroDivisionError("slip"), 1, "error: unexpected ZeroDivisionError: slip\nThis is a mistake in nesa: --debug"),
    ],
    ids=["failed", "folder", "interrupted", "terminated", "slip"],
)
def test_exit_codes(capsys, runs, error, code, text):
    runs.fail = error
    assert commands.main(["run", str(QUICKSTART)]) == code
    assert capsys.readouterr().err.startswith(text)
    with pytest.raises(type(error)):
        commands.main(["run", str(QUICKSTART), "--debug"])


def test_sigterm_is_terminated_and_the_handler_is_put_back(capsys, runs, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        sys.modules["nesa.experiment.run"], "resume", lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert commands.main(["resume", "runs/x"]) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_verify_prints_a_table_and_fails_with_a_check(capsys, runs):
    runs.checks = [
        SimpleNamespace(name="old answers", ok=True, detail="3 tasks"),
        SimpleNamespace(name="invariant", ok=True, detail=""),
    ]
    assert commands.main(["verify", "runs/x"]) == 0
    assert capsys.readouterr().out == "ok    old answers  3 tasks\nok    invariant\n2 checks, 0 failed\n"
    runs.checks.append(SimpleNamespace(name="tables", ok=False, detail="accuracy.csv differs"))
    assert commands.main(["verify", "runs/x"]) == 1
    assert "FAIL  tables       accuracy.csv differs\n3 checks, 1 failed\n" in capsys.readouterr().out
    runs.checks.clear()
    assert commands.main(["verify", "runs/x"]) == 1, "nothing checked is nothing shown"


# Progress -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(stream: io.StringIO, **options: bool) -> str:
    with Progress(stream, **options) as progress:
        progress("cifar10: download", 50, 100)
        progress("cifar10: download", 100, 100)
        progress.task("edges", 0, 3, epochs=2, steps=4)
        for epoch in (1, 2):
            for _ in range(4):
                progress.step()
            progress.epoch(epoch, loss=0.51234567, val_accuracy=0.9, live=12)
        progress.message("settled")
        progress.warning("falls back")
    return stream.getvalue()


def test_a_file_gets_plain_lines():
    lines = play(io.StringIO()).splitlines()
    assert lines[:2] == ["cifar10: download ...", "[1/3] edges: 2 epochs of 4 steps"]
    assert lines[2].startswith("[1/3] edges: epoch 1/2  loss 0.5123  val_accuracy 0.9  live 12")
    assert lines[4:] == ["settled", "warning: falls back"]
    assert len(lines) == 6
    assert not any("\r" in line or "\033" in line for line in lines)


def test_a_terminal_gets_one_bar(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = play(Terminal())
    assert "[1/3] edges epoch 2/2" in text and "100%" in text and "\r" in text
    assert "\033[33mwarning:\033[0m falls back\n" in text


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = play(Terminal())
    assert "\nwarning: falls back\n" in text or "\rwarning: falls back\n" in text
    assert "\033[3" not in text


def test_quiet_keeps_what_matters():
    assert play(io.StringIO(), quiet=True).splitlines() == ["settled", "warning: falls back"]


# Previews -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    """Eight colour images in two classes, as the source `folder` reads them."""
    for part in ("train", "test"):
        for name, colour in (("cat", (250, 10, 10)), ("dog", (10, 10, 250))):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(2):
                image = Image.new("RGB", (20, 20), colour)
                image.putpixel((i, 0), (0, 255, 0))
                image.save(folder / f"{part}{i}.png")
    return tmp_path / "photos"


def test_a_preview_takes_parameters(capsys, photos, tmp_path):
    sheets = [tmp_path / "grey.png", tmp_path / "colour.png"]
    words = ["tasks", "folder", f"path={photos}", "--preview", str(sheets[0])]
    assert commands.main(words) == 0
    seen = capsys.readouterr()
    assert seen.out == f"{sheets[0]}\n"
    assert "warning: source folder: 4 of 4 test samples are also training samples\n" in seen.err
    words = ["tasks", "--preview", str(sheets[1]), "folder", f"path={photos}", "--size", "20,20", "--channels", "3"]
    assert commands.main(words) == 0
    saturation = [np.asarray(Image.open(sheet).convert("HSV"))[..., 1].max() for sheet in sheets]
    assert saturation[0] == 0 and saturation[1] > 200


def test_a_preview_of_vectors_takes_their_size(capsys, tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", train_x=x, train_y=np.arange(8) % 2, test_x=-x, test_y=np.arange(8) % 2)
    words = ["tasks", "arrays", f"path={tmp_path / 'mine.npz'}", "--preview", str(tmp_path / "sheet.png")]
    assert commands.main([*words, "--size", "3"]) == 0
    assert (tmp_path / "sheet.png").is_file()
    assert commands.main(words) == 2
    assert "expected images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["edges", "train=many", "--preview", "x.png"], "train: expected a whole number, got 'many'"),
        (
            ["edges", "trian=80", "--preview", "x.png"],
            "trian: unknown parameter of source 'edges' (did you mean 'train'",
        ),
        (["edges", "train=[", "--preview", "x.png"], "command line:1:"),
        (["edges", "train", "--preview", "x.png"], "is not of the form key=value"),
        (["folder", "--preview", "x.png"], "path: source 'folder' needs this parameter"),
        (["edges", "train=80"], "add --preview PNG"),
        (["edges", "--preview", "x.png", "--size", "0"], "'0' is not a size: H,W of images"),
    ],
)
def test_parameters_of_a_preview_are_checked(capsys, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["tasks", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_curriculum_is_drawn_on_one_sheet(capsys, photos, tmp_path):
    path, sheet = tmp_path / "c.yaml", tmp_path / "new" / "sheet.png"
    path.write_text(
        "name: c\ninput: {size: [8, 8]}\nnetwork: {grid: [8, 8, 3]}\ntasks:\n"
        "- {name: first, source: digits}\n"
        f"- {{name: second, source: folder, params: {{path: {photos}}}}}\n"
    )
    assert commands.main(["check", str(path), "--preview", str(sheet)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(sheet)
    with Image.open(sheet) as image:
        assert image.height > 66 * (10 + 2), "a row for each class of each task"
    shutil.rmtree(photos)
    assert commands.main(["check", str(path), "--preview", str(sheet)]) == 2
    assert "task second: the folder of a folder task does not exist" in capsys.readouterr().err
