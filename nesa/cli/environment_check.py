"""Check whether this machine can run nesa: versions, TensorBoard, disk space, folders, threads and CUDA."""

from __future__ import annotations

import importlib.util
import operator
import platform
import re
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

LEAST_FREE = 1_000_000_000  # bytes in the cache folder: CIFAR-10, its archive and its decoded copies
OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


class Finding(NamedTuple):
    """One thing that was checked: whether it is fine, and a sentence."""

    ok: bool
    text: str


def print_environment_check(data: Path | None = None) -> int:
    """Print each finding as soon as it is known, and return the exit code: 0 where all is fine, else 2."""
    failed = 0
    for finding in environment_findings(data):
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.text}", flush=True)
        failed += not finding.ok
    return 2 if failed else 0


def environment_findings(data: Path | None = None) -> Iterator[Finding]:
    """Check this machine, the quick parts first; torch is imported last, and only if the versions fit."""
    from nesa.datasets.paths import DataDirs

    versions = list(_versions())
    yield from versions
    yield _tensorboard()
    yield _disk_space(DataDirs(data).store)
    yield _writable(Path("runs"))
    if all(finding.ok for finding in versions):
        yield _torch()


def installation_problem(error: BaseException) -> str | None:
    """Describe an error that comes from packages that do not fit or are missing; None for any other error."""
    frames = traceback.extract_tb(error.__traceback__)
    imported = {part for frame in frames if frame.name == "<module>" for part in Path(frame.filename).parts}
    if "torchvision" in imported:
        return torch_pair_problem(f"{type(error).__name__}: {error}")
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ImportError) and package not in ("nesa", "urn"):
        return f"a package that nesa needs cannot be imported ({error}); see `nesa check --environment`"
    return None


def torch_pair_problem(symptom: str = "") -> str | None:
    """Describe why the installed torch and torchvision do not fit, and what mends it.

    None where their versions fit, unless there is a ``symptom``: their builds differ then.
    """
    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None or torchvision is None:
        return None
    build, other_build = torch.partition("+")[2], torchvision.partition("+")[2]  # cpu, cu126, ... or ""
    major, minor, *_ = _numbers(torch)
    versions_fit = major != 2 or _numbers(torchvision)[:2] == (0, minor + 15)  # torchvision 0.15 goes with torch 2.0
    if versions_fit and not symptom and (build == other_build or not (build and other_build)):
        return None
    pair = f'"torch==2.{minor}.*" "torchvision==0.{minor + 15}.*"' if major == 2 else "torch torchvision"
    force = "--force-reinstall " if versions_fit else ""
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    text = f"torch {torch} and torchvision {torchvision} do not fit one another{f' ({symptom})' if symptom else ''}"
    return f"{text}; install both from one index: pip install {force}{pair}{index}"


def _versions() -> Iterator[Finding]:
    """Compare Python and the installed packages with what nesa declares."""
    try:
        lines, python = metadata.requires("nesa") or [], metadata.metadata("nesa")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        lines, python = [], ""
    yield _range("Python", platform.python_version(), python, "install one of these")
    packages = [re.split(r"(?=[<>=!~])", line, maxsplit=1) for line in lines if "extra ==" not in line]
    for name, needed in packages:
        found, mend = _version(name), f"pip install '{name}{needed}'"
        if found is None:
            yield Finding(False, f"{name} is missing; {mend}")
        elif name in ("avalanche-lib", "tensorboard") or not _satisfies(found, needed):
            yield _range(name, found, needed, mend)
    problem = torch_pair_problem()
    yield Finding(problem is None, problem or f"torch {_version('torch')}, torchvision {_version('torchvision')}")


def _range(name: str, found: str, needed: str, mend: str) -> Finding:
    """Compare one version with the range that is needed."""
    if _satisfies(found, needed):
        return Finding(True, f"{name} {found}")
    return Finding(False, f"{name} is {found}, and nesa needs {needed}; {mend}")


def _tensorboard() -> Finding:
    """Check that TensorBoard can start: up to 2.20 it needs pkg_resources, which setuptools 82 has removed."""
    found = _version("tensorboard") or "0"
    if _numbers(found) >= (2, 21) or importlib.util.find_spec("pkg_resources") is not None:
        return Finding(True, "TensorBoard can start")
    setuptools = _version("setuptools") or "(missing)"
    text = f"tensorboard {found} cannot start: it needs pkg_resources, which setuptools {setuptools} does not have"
    return Finding(False, f"{text}; pip install 'setuptools<82'")


def _disk_space(folder: Path) -> Finding:
    """Check that a data set fits into the cache folder."""
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{free / 1e9:,.1f} GB free in the cache folder {folder}"
    return Finding(True, text) if free >= LEAST_FREE else Finding(False, f"{text}; data sets need about 1 GB")


def _writable(folder: Path) -> Finding:
    """Check that a run can be written into a folder, which may not exist yet."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Finding(True, f"{folder}/ can be written")
    except OSError as error:
        return Finding(False, f"{folder}/ cannot be written ({error.strerror}); go elsewhere, or use --out")


def _torch() -> Finding:
    """Import torch and torchvision, and report threads and CUDA."""
    try:
        import torch
        import torchvision as torchvision
    except Exception as error:
        return Finding(False, installation_problem(error) or f"torch cannot be imported ({error}); install it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old
        cuda = f"CUDA on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no CUDA"
    return Finding(True, f"torch works: {torch.get_num_threads()} threads, {cuda}")


def _existing(folder: Path) -> Path:
    """Find the nearest folder above that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Parse the leading numbers of a version, padded to three: '2.14' -> (2, 14, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = tuple(map(int, found[0].split("."))) if found else ()
    return (*numbers, 0, 0, 0)[: max(3, len(numbers))]


def _satisfies(version: str, needed: str) -> bool:
    """Whether a version lies in a range such as '>=2.11,<2.15'."""
    pairs = re.findall(r"(<=|>=|==|<|>)\s*([\d.]+)", needed)
    return all(OPERATORS[sign](_numbers(version), _numbers(limit)) for sign, limit in pairs)
