"""NESA: curricula of tasks on which an Unstructured Recursive Network accumulates structure.

Light by design: names below load their module on first use, so ``import nesa`` and ``nesa --help`` cost nothing.

    nesa.NeuralPruning  the learner, an Avalanche plugin
    nesa.load           a stored run: nesa.load(RUN).task(NAME) is a torch module

A function cannot share its name with a submodule of the package, so training is ``from nesa.experiment.run import run``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nesa.inference.saved_run import load
    from nesa.training.strategies.neural_pruning import NeuralPruning

__version__ = "0.1.0"
__all__ = ["NeuralPruning", "__version__", "load"]

_HOMES = {"NeuralPruning": "nesa.training.strategies.neural_pruning", "load": "nesa.inference.saved_run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nesa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
