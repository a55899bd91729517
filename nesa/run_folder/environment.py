"""Describe and read the environment of a run (environment.json): versions, device, commit, seed and command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nesa.errors import RunFolderError
from nesa.run_folder.layout import ENVIRONMENT, check_run

PACKAGES = ("nesa", "torch", "torchvision", "avalanche-lib", "numpy", "scipy", "scikit-image", "scikit-learn", "pillow")


def environment(seed: int, device: str = "cpu", command: Sequence[str] | None = None) -> dict[str, Any]:
    """Describe this process: versions, device, processor, threads, git commit, seed and the exact command.

    ``command`` defaults to the command line that started it. ``commit`` is None when nesa does not run from a git
    checkout; ``changed`` says whether tracked files there differed from the commit.
    """
    import torch

    words = list(sys.argv if command is None else command)
    commit, changed = _commit(Path(__file__).resolve())
    return {
        "command": shlex.join([Path(words[0]).name, *words[1:]] if words else []),
        "seed": seed,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device.startswith("cuda") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "changed": changed,
    }


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Select from a run's environment what the last bits of a logit depend on."""
    return {
        "torch": environment["versions"]["torch"],
        "device": environment["device_name"],
        "processor": environment["processor"],
        "threads": environment["threads"],
    }


def read_environment(folder: str | Path) -> dict[str, Any]:
    """Read environment.json of a run; RunFolderError if it is no run or the file is damaged."""
    path = check_run(folder) / ENVIRONMENT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error})") from error


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Find the model of the processor; platform.processor() is empty or an architecture on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _commit(source: Path) -> tuple[str | None, bool | None]:
    """Find the commit of ``source``, and whether files differ from it; (None, None) unless git tracks that very file.

    An installed package may lie in an environment inside another project's repository, whose commit is no answer.
    """

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(source.parent), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
