"""Test `nesa check --environment` and errors of an installation, with versions that are made up."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from types import SimpleNamespace

import pytest

from nesa.cli import commands, environment_check
from nesa.cli.environment_check import Finding, installation_problem, torch_pair_problem

REQUIRES = ["torch<2.15,>=2.11", "torchvision<0.30,>=0.26", "avalanche-lib==0.6.0", "tensorboard<3,>=2.16"]
VERSIONS = {"torch": "2.14.1", "torchvision": "0.29.1", "avalanche-lib": "0.6.0", "tensorboard": "2.20.0"}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A machine on which all is fine; tests change its versions. torch is not imported."""
    versions = {**VERSIONS, "setuptools": "80.9"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: [*REQUIRES, 'ruff==0.17.*; extra == "dev"'])
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": "<3.99,>=3.11"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(environment_check, "_torch", lambda: Finding(True, "torch works"))
    return versions


def failures(capsys):
    code = commands.main(["check", "--environment"])
    lines = capsys.readouterr().out.splitlines()
    found = [line.removeprefix("FAIL  ") for line in lines if line.startswith("FAIL")]
    assert code == (2 if found else 0)
    return found


def test_a_machine_on_which_all_is_fine(installed, capsys):
    assert failures(capsys) == []


def test_each_finding_names_what_it_found(installed, capsys, tmp_path):
    assert commands.main(["check", "--environment"]) == 0
    out = capsys.readouterr().out
    for text in ("Python 3.", "torch 2.14.1, torchvision 0.29.1", "avalanche-lib 0.6.0", "tensorboard 2.20.0"):
        assert f"ok    {text}" in out
    assert f"GB free in the cache folder {tmp_path}/cache/nesa" in out and "runs/ can be written" in out


@pytest.mark.parametrize(
    ("changed", "sentences"),
    [
        (
            {"torchvision": "0.28.0"},
            [
                "torch 2.14.1 and torchvision 0.28.0 do not fit one another; install both from one index: "
                'pip install "torch==2.14.*" "torchvision==0.29.*"'
            ],
        ),
        (
            {"torch": "2.14.1+cpu", "torchvision": "0.29.1+cu126"},
            [
                "torch 2.14.1+cpu and torchvision 0.29.1+cu126 do not fit one another; install both from one index: "
                'pip install --force-reinstall "torch==2.14.*" "torchvision==0.29.*" '
                "--index-url https://download.pytorch.org/whl/cpu"
            ],
        ),
        (
            {"torch": "2.10.0", "torchvision": "0.25.0"},
            [
                "torch is 2.10.0, and nesa needs <2.15,>=2.11; pip install 'torch<2.15,>=2.11'",
                "torchvision is 0.25.0, and nesa needs <0.30,>=0.26; pip install 'torchvision<0.30,>=0.26'",
            ],
        ),
        ({"avalanche-lib": None}, ["avalanche-lib is missing; pip install 'avalanche-lib==0.6.0'"]),
    ],
    ids=["pair", "builds", "range", "missing"],
)
def test_versions_that_do_not_fit(installed, monkeypatch, capsys, changed, sentences):
    installed.update(changed)
    for name in [name for name, version in installed.items() if version is None]:
        del installed[name]
    monkeypatch.setattr(environment_check, "_torch", lambda: pytest.fail("torch is imported all the same"))
    assert failures(capsys) == sentences


def test_tensorboard_without_pkg_resources(installed, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    installed["setuptools"] = "82.0.0"
    assert failures(capsys) == [
        "tensorboard 2.20.0 cannot start: it needs pkg_resources, which setuptools 82.0.0 does not have; "
        "pip install 'setuptools<82'"
    ]
    installed["tensorboard"] = "2.21.0"
    assert failures(capsys) == []


def test_another_python(installed, monkeypatch, capsys):
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": "<3.9,>=3.8"})
    (text,) = failures(capsys)
    assert text.startswith("Python is 3.") and "nesa needs <3.9,>=3.8" in text


def test_disk_and_folders(installed, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    (text,) = failures(capsys)
    assert text.startswith("0.0 GB free in the cache folder") and "need about 1 GB" in text

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert failures(capsys)[1] == "runs/ cannot be written (Permission denied); go elsewhere, or use --out"


def test_the_curriculum_is_checked_too_where_one_is_given(installed, capsys, tmp_path):
    assert commands.main(["check", "--environment", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: no such file" in capsys.readouterr().err


def test_versions_are_compared_before_torch_is_imported():
    """In a process of its own: the answer about versions is there although torch never is."""
    code = (
        "import sys\nfrom nesa.cli import environment_check as e\nlist(e._versions()), e._tensorboard()\n"
        "print(sorted({'torch', 'torchvision', 'avalanche', 'tensorboard'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Errors of an installation, in any command --------------------------------------------------------------------------


def raised(code: str, file: str) -> BaseException:
    """The error of a module's code, as if it had been imported from ``file``."""
    try:
        exec(compile(code, file, "exec"), {})
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


MISFIT = 'raise RuntimeError("operator torchvision::nms does not exist")'


def test_an_import_of_torchvision_that_fails_names_both_versions(installed, monkeypatch, capsys):
    error = raised(MISFIT, "/lib/site-packages/torchvision/_meta_registrations.py")
    assert installation_problem(error) == (
        "torch 2.14.1 and torchvision 0.29.1 do not fit one another (RuntimeError: operator torchvision::nms does not "
        'exist); install both from one index: pip install --force-reinstall "torch==2.14.*" "torchvision==0.29.*"'
    )
    installed["torchvision"] = "0.28.0"
    assert 'pip install "torch==2.14.*" "torchvision==0.29.*"' in (installation_problem(error) or "")

    def fail(args):
        raise error

    monkeypatch.setitem(commands.COMMANDS, "tasks", fail)
    assert commands.main(["tasks"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: torch 2.14.1 and torchvision 0.28.0 do not fit") and "mistake in nesa" not in err


def test_a_package_that_is_missing_is_no_mistake_of_nesa(installed):
    error = raised("import no_such_package_at_all", "/lib/site-packages/tensorboard/default.py")
    assert installation_problem(error) == (
        "a package that nesa needs cannot be imported (No module named 'no_such_package_at_all'); "
        "see `nesa check --environment`"
    )


def test_mistakes_of_nesa_stay_what_they_are(installed):
    assert installation_problem(raised("import nesa.no_such_module", "nesa/x.py")) is None
    assert installation_problem(raised("1 / 0", "/lib/nesa/x.py")) is None
    assert torch_pair_problem() is None
