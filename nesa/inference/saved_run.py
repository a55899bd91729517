"""Load a stored run for inference: its tasks as torch modules, and everything that it has accumulated.

    run = nesa.load("runs/vision-20250101-120000")
    run.names                      # ["edges", "shapes", "cifar10"]
    shapes = run.task("shapes")    # an nn.Module: raw images in, logits of exactly that task's classes out
    shapes(images).argmax(1)

No Avalanche here, so that opening a run in a notebook stays quick. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nesa.errors import RunFolderError, UserError
from nesa.run_folder.events import Event
from nesa.run_folder.layout import CHECKPOINT, task_folder
from nesa.run_folder.reader import StoredRun, read_state, read_structure
from nesa.training.accumulation import Accumulation
from nesa.training.task_data import normalise


def load(folder: str | Path) -> SavedRun:
    """Load the run in `folder`, finished or not, as of its last checkpoint.

    RunFolderError when the folder is no run, when no task has been claimed yet, and when the checkpoint is damaged or
    of a baseline learner."""
    run = StoredRun(folder)
    if not run.checkpoints:
        raise RunFolderError(f"{run.folder}: no task of this run is finished yet; go on with `nesa resume`")
    return SavedRun(run, read_accumulation(run.folder, run.checkpoints[-1]))


def read_accumulation(folder: str | Path, event: Event) -> Accumulation:
    """Load what had been accumulated when the task of the checkpoint event `event` was finished."""
    return accumulation_of(read_state(folder, event), task_folder(folder, event["task"]) / CHECKPOINT)


def accumulation_of(state: Mapping[str, Any], path: Path) -> Accumulation:
    """Restore the accumulation of a checkpoint; RunFolderError, naming `path`, when there is none."""
    learner = state.get("learner")
    if not isinstance(learner, Mapping) or "owner" not in learner:
        raise RunFolderError(
            f"{path}: holds no accumulated structure; only runs with `learner: {{name: neural_pruning}}` claim neurons"
        )
    try:
        return Accumulation.from_state_dict(dict(learner))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise RunFolderError(f"{path}: does not hold a whole network ({_reason(error)})") from error


class SavedRun:
    """run: the stored run. accumulation: everything that was claimed (W, b, owner, claims)."""

    def __init__(self, run: StoredRun, accumulation: Accumulation):
        self.run, self.accumulation = run, accumulation

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""
        return self.run.folder

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the events of the run."""
        return self.run.events

    @property
    def names(self) -> list[str]:
        """List the finished tasks, in the order in which they were learned."""
        return [claim.name for claim in self.accumulation.claims]

    def task(self, name: str) -> SavedTask:
        """Load the network of a finished task; UserError for a name that is none."""
        arrays = read_structure(self.folder, self.checkpoint_of(name))
        return SavedTask(self.accumulation, name, [int(n) for n in arrays["shape"]], arrays["class_names"].tolist())

    def checkpoint_of(self, name: str) -> Event:
        """Return the event of a finished task's checkpoint; UserError for a name that is none."""
        for event in self.run.checkpoints:
            if event["task"] == name:
                return event
        raise UserError(f"{self.folder}: has no finished task {name!r}; there are {', '.join(self.names)}")

    def __repr__(self) -> str:
        return f"SavedRun({str(self.folder)!r}, tasks: {', '.join(self.names)})"


class SavedTask(nn.Module):
    """A finished task's own frozen sub-network, with the normalisation of its input.

    network: the `urn.URN`. classes: names of the D_out classes. shape: [C, H, W] of its images, or [D].
    """

    def __init__(self, accumulation: Accumulation, name: str, shape: Sequence[int], classes: Sequence[str]):
        super().__init__()
        extra = accumulation.find(name).extra
        self.name, self.shape, self.classes = name, tuple(shape), tuple(classes)
        self.mean, self.std = float(extra["mean"]), float(extra["std"])
        self.network = accumulation.network(name)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, D_out) of raw samples (B, D_in), or of images (B, C, H, W), or (B, H, W) when C = 1.

        Images have values from 0 to 255, as the task's own. Raises ValueError for any other shape."""
        B, d_in = len(x), len(self.network.layout.inputs)
        if tuple(x.shape) not in ((B, d_in), (B, *self.shape), *([(B, *self.shape[1:])] if self.shape[0] == 1 else [])):
            wanted = f"(B, {', '.join(map(str, self.shape))})" + (f" or (B, {d_in})" if len(self.shape) > 1 else "")
            raise ValueError(f"task {self.name!r} takes raw samples {wanted}, not {tuple(x.shape)}")
        return self.network(normalise(x.reshape(B, d_in), self.mean, self.std), self.name)

    def extra_repr(self) -> str:
        return (
            f"{self.name}: {self.network.S} neurons, {self.network.iterations} iterations, {len(self.classes)} classes"
        )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


__all__ = ["SavedRun", "SavedTask", "load"]
