"""A stored run, opened for use: its tasks as plain torch modules, its accumulation, its checkpoints. It only reads.

    run = nesa.load("runs/vision-20250101-120000")
    run.names                      # ["edges", "shapes", "cifar10"]
    shapes = run.task("shapes")    # an nn.Module: raw images in, logits of exactly that task's classes out
    shapes(images).argmax(1)

No Avalanche here: opening a run in a notebook stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nesa.errors import RunFolderError, UserError
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.digest import digest
from nesa.run_folder.events import read_events
from nesa.run_folder.layout import CHECKPOINT, load_structure, task_folder
from nesa.training.accumulation import Accumulation
from nesa.training.task_data import normalise

FORMAT = 2  # of checkpoint.pt and probe.pt
PROBE = "probe.pt"
TRAINING = "training.pt"  # the task in hand after some step; removed when the task is finished
FILM = "film.pt"  # what its animation has of it so far; removed with it
EARLIER = "training-earlier.pt"  # its predecessor, for the case that it is damaged

Event = Mapping[str, Any]


def load(folder: str | Path) -> SavedRun:
    """The run in `folder`, finished or not, as of its last checkpoint. Raises RunFolderError when the folder is no
    run, when no task has been claimed yet, and when the checkpoint is damaged or of a learner that claims nothing."""
    folder = Path(folder)
    events = read_events(folder)
    saved = checkpointed(events)
    if not saved:
        raise RunFolderError(f"{folder}: no task of this run is finished yet; go on with `nesa resume`")
    return SavedRun(folder, events, read_accumulation(folder, saved[-1]))


def checkpointed(events: Sequence[Event]) -> list[Event]:
    """The events of the finished tasks' checkpoints, in order of tasks."""
    return [event for event in events if event["event"] == "checkpointed"]


def read_state(folder: str | Path, event: Event) -> dict[str, Any]:
    """The checkpoint that `event` announced. RunFolderError when it is missing, damaged or of another version: what
    torch can load is still compared with the digest in the event."""
    return _read(folder, event, "checkpoint", CHECKPOINT)


def read_probe(folder: str | Path, event: Event) -> dict[str, Any]:
    """tasks/NAME/probe.pt: `x` (n, D_in) raw test samples, `logits` (n, D_out) that the task gave for them right after
    its claim, and the `machine` on which it did."""
    return _read(folder, event, "probe", PROBE)


def read_structure(folder: str | Path, event: Event) -> dict[str, Any]:
    """tasks/NAME/structure.npz, compared with its digest."""
    arrays = load_structure(folder, event["task"])
    _compare(task_folder(folder, event["task"]) / "structure.npz", arrays, event, "structure")
    return arrays


def read_accumulation(folder: str | Path, event: Event) -> Accumulation:
    """What had been accumulated when the task of `event` was finished."""
    return accumulation_of(read_state(folder, event), task_folder(folder, event["task"]) / CHECKPOINT)


def accumulation_of(state: Mapping[str, Any], path: Path) -> Accumulation:
    """The accumulation inside a checkpoint; RunFolderError, naming `path`, when there is none."""
    learner = state.get("learner")
    if not isinstance(learner, Mapping) or "owner" not in learner:
        raise RunFolderError(
            f"{path}: holds no accumulated structure; only runs with `learner: {{name: neural_pruning}}` claim neurons"
        )
    try:
        return Accumulation.from_state_dict(dict(learner))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise RunFolderError(f"{path}: does not hold a whole network ({_reason(error)})") from error


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the last bits of a logit depend on, out of a run's environment."""
    return {
        "torch": environment["versions"]["torch"],
        "device": environment["device_name"],
        "processor": environment["processor"],
        "threads": environment["threads"],
    }


class SavedRun:
    """folder: the run. names: its finished tasks, in the order in which they were learned. events: its record.
    accumulation: everything that was claimed (W, b, owner, claims)."""

    def __init__(self, folder: Path, events: Sequence[Event], accumulation: Accumulation):
        self.folder, self.events, self.accumulation = folder, list(events), accumulation

    @property
    def names(self) -> list[str]:
        return [claim.name for claim in self.accumulation.claims]

    def task(self, name: str) -> SavedTask:
        """The network of a finished task. Raises UserError for a name that is none."""
        if name not in self.names:
            raise UserError(f"{self.folder}: has no finished task {name!r}; there are {', '.join(self.names)}")
        event = next(event for event in checkpointed(self.events) if event["task"] == name)
        arrays = read_structure(self.folder, event)
        return SavedTask(self.accumulation, name, [int(n) for n in arrays["shape"]], arrays["class_names"].tolist())

    def __repr__(self) -> str:
        return f"SavedRun({str(self.folder)!r}, tasks: {', '.join(self.names)})"


class SavedTask(nn.Module):
    """A finished task's own frozen sub-network, with the normalisation that belongs to it.

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
        """Logits (B, D_out) for raw samples: (B, D_in), or images (B, C, H, W), or (B, H, W) when C = 1, with values
        from 0 to 255 as the task's own images have. Raises ValueError for any other shape."""
        B, d_in = len(x), len(self.network.layout.inputs)
        if tuple(x.shape) not in ((B, d_in), (B, *self.shape), *([(B, *self.shape[1:])] if self.shape[0] == 1 else [])):
            wanted = f"(B, {', '.join(map(str, self.shape))})" + (f" or (B, {d_in})" if len(self.shape) > 1 else "")
            raise ValueError(f"task {self.name!r} takes raw samples {wanted}, not {tuple(x.shape)}")
        return self.network(normalise(x.reshape(B, d_in), self.mean, self.std), self.name)

    def extra_repr(self) -> str:
        return (
            f"{self.name}: {self.network.S} neurons, {self.network.iterations} iterations, {len(self.classes)} classes"
        )


def _read(folder: str | Path, event: Event, key: str, file: str) -> dict[str, Any]:
    state = load_checkpoint(folder, event["task"], file)
    path = task_folder(folder, event["task"]) / file
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunFolderError(f"{path}: is not of this version of nesa; use the version in environment.json")
    _compare(path, state, event, key)
    return state


def _compare(path: Path, value: Any, event: Event, key: str) -> None:
    try:
        found = digest(value)
    except TypeError as error:
        raise RunFolderError(f"{path}: is not what the run wrote ({error})") from error
    if found != event.get(key):
        raise RunFolderError(f"{path}: is not what the run wrote: its digest is {found}, not {event.get(key)}")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


__all__ = ["FORMAT", "PROBE", "SavedRun", "SavedTask", "load"]
