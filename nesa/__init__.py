"""Train an Unstructured Recursive Network on a curriculum of tasks, so that it accumulates structure (NESA).

The names below import their module on first use, so ``import nesa`` and ``nesa --help`` do not import torch.

    nesa.NeuralPruning  the learner, an Avalanche plugin
    nesa.load           opens a stored run: nesa.load(RUN).task(NAME) is a torch module

To train a curriculum, call ``nesa.experiment.run.run``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nesa.inference.saved_run import load
    from nesa.training.strategies.neural_pruning import NeuralPruning

__version__ = "0.1.0"
__all__ = ["NeuralPruning", "__version__", "load"]

_MODULES = {"NeuralPruning": "nesa.training.strategies.neural_pruning", "load": "nesa.inference.saved_run"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nesa' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
