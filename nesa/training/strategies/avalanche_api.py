"""Import the parts of Avalanche that this package uses, once, without the warnings of its own dependencies.

No other module imports Avalanche: when it changes, or has to be replaced, this list says what is needed of it.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # qpsolvers warns about solvers that nothing here uses
    from avalanche.benchmarks import benchmark_from_datasets, with_task_labels
    from avalanche.benchmarks.utils import DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import TaskAwareClassificationDataset
    from avalanche.benchmarks.utils.data_attribute import TaskLabels
    from avalanche.benchmarks.utils.flat_data import ConstantSequence
    from avalanche.core import SupervisedPlugin
    from avalanche.models import MultiTaskModule
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, LwFPlugin, ReplayPlugin
    from avalanche.training.supervised.joint_training import JointTraining
    from avalanche.training.templates import SupervisedTemplate
    from avalanche.training.utils import ParamData

__all__ = [
    "ConstantSequence",
    "DataAttribute",
    "EWCPlugin",
    "EvaluationPlugin",
    "JointTraining",
    "LwFPlugin",
    "MultiTaskModule",
    "ParamData",
    "ReplayPlugin",
    "SupervisedPlugin",
    "SupervisedTemplate",
    "TaskAwareClassificationDataset",
    "TaskLabels",
    "benchmark_from_datasets",
    "with_task_labels",
]
