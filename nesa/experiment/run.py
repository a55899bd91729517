"""Run, resume or extend a whole curriculum: load all data, then train task after task into a run folder.

Every random number of a task comes from (seed, task, purpose), so a run that is resumed goes on exactly as it would
have, inside a task too (nesa.training.strategies.step_checkpoint). Nothing is trained before all data are there.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nesa.config.curriculum import Curriculum
from nesa.config.loader import dump, extend_curriculum, load
from nesa.config.sizes import in_bytes, neurons, weight_bytes
from nesa.datasets.registry import DataDirs
from nesa.errors import RunFolderError, UserError
from nesa.experiment.session import Session, fallbacks
from nesa.inference.saved_run import read_accumulation
from nesa.interrupts import DelayedInterrupt
from nesa.progress import Progress
from nesa.run_folder import resume_state
from nesa.run_folder.environment import environment, machine
from nesa.run_folder.events import checkpoint_events, finish_event
from nesa.run_folder.layout import CURRICULUM, new_folder
from nesa.run_folder.writer import RunWriter
from nesa.training.task_data import TaskData, load_task

TRAINING_COPIES = 4  # of W's size in memory while a task is trained


def run(
    curriculum: Curriculum,
    *,
    out: Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
    data: Path | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    animate: bool = True,
) -> Path:
    """Train a curriculum and return the run folder. animate: whether to draw how each task's structure changes.

    Raises UserError for wrong input, before anything is written, and RunFailed when training cannot go on."""
    curriculum = curriculum if seed is None else replace(curriculum, seed=seed)
    place = check_device(device)
    progress = progress or Progress(quiet=True)
    tasks, notes = load_tasks(curriculum, data, progress)
    check_memory(curriculum, place)
    out = Path("runs") if out is None else Path(out)
    folder = out / name if name else new_folder(out, run_name(curriculum, tasks))
    facts = environment(curriculum.seed, device, command)
    with _interruptible(folder, progress) as interrupt, RunWriter.create(folder, dump(curriculum), facts) as writer:
        session = Session(curriculum, tasks, writer, place, progress, machine(facts), interrupt, animate=animate)
        session.begin(notes)
        session.train_all(0)
    return folder


def resume(
    folder: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    animate: bool = True,
) -> Path:
    """Resume a run from its last checkpoint that is whole, to the same result as one that was never interrupted.

    A finished run is left as it is. Raises RunFolderError when the curriculum or the data are not those that the run
    began with; other versions, another device or number of threads are a warning, in the record too."""
    folder = Path(folder)
    place = check_device(device)
    progress = progress or Progress(quiet=True)
    with _interruptible(folder, progress) as interrupt, RunWriter.open(folder) as writer:
        if (text := resume_state.half_extended(folder, writer.events)) is not None:
            writer.put_curriculum(text)
        curriculum = load(folder / CURRICULUM)
        resume_state.check_curriculum(folder, writer.events)
        if finish_event(writer.events) is not None:
            progress.message(f"{folder}: this run is finished; nothing to resume")
            return folder
        tasks, notes = load_tasks(curriculum, data, progress)
        facts = machine(environment(curriculum.seed, device))
        session = Session(curriculum, tasks, writer, place, progress, facts, interrupt, animate=animate)
        resume_state.check_data(folder, writer.events, fallbacks(tasks), session.digests)
        changes = [f"resumed although {change}" for change in resume_state.changes(folder, device)]
        first, inside, damage = session.restore(notes)
        for note in [*damage, *changes]:
            progress.warning(note)
        session.warn([*damage, *changes])
        session.train_all(first, inside)
    return folder


def extend(
    folder: Path,
    more: Path,
    overrides: Sequence[str] = (),
    *,
    data: Path | None = None,
    device: str = "cpu",
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    animate: bool = True,
) -> Path:
    """Add the tasks of the file `more` to a finished run and train them (`nesa.config.loader`).

    The earlier tasks keep their neurons, weights and answers; the result is that of one run of all tasks.

    Until all data are there, those of the earlier tasks too, nothing is changed. Raises UserError for wrong input and
    for a run that cannot be extended: unfinished, of a learner that claims nothing, or damaged."""
    folder = Path(folder)
    place = check_device(device)
    progress = progress or Progress(quiet=True)
    with RunWriter.open(folder) as writer:
        events = writer.events
        if finish_event(events) is None:
            raise RunFolderError(f"{folder}: this run is not finished; go on with `nesa resume {folder}` first")
        before = load(folder / CURRICULUM)
        resume_state.check_curriculum(folder, events)
        if not before.learner.claims_neurons:
            raise RunFolderError(
                f"{folder}: is a run of {before.learner.name}, whose answers would change with more tasks; only a run "
                "of neural_pruning, which claims neurons, can be extended"
            )
        accumulation = read_accumulation(
            folder, checkpoint_events(events)[-1]
        )  # damaged, it is refused, not passed over
        curriculum = extend_curriculum(more, before, overrides)
        tasks, notes = load_tasks(curriculum, data, progress)
        known = len(before.tasks)
        curriculum = _with_ports(curriculum, sum(task.classes for task in tasks[known:]))
        check_memory(curriculum, place, accumulation.layout.S)
        facts = environment(curriculum.seed, device, command)
        with _interruptible(folder, progress) as interrupt:
            session = Session(curriculum, tasks, writer, place, progress, machine(facts), interrupt, animate=animate)
            resume_state.check_data(folder, events, fallbacks(tasks[:known]), session.digests[:known])
            changes = [f"extended although {change}" for change in resume_state.changes(folder, device)]
            for note in changes:
                progress.warning(note)
            first, _, _ = session.restore()
            session.begin([*notes, *changes], extending=facts["command"])
            session.train_all(first)
    return folder


def _with_ports(curriculum: Curriculum, outputs: int) -> Curriculum:
    """`network.neurons` counts the output ports: without a grid, those of further tasks come on top."""
    network = curriculum.network
    if network.neurons is None:
        return curriculum
    return replace(curriculum, network=replace(network, neurons=network.neurons + outputs))


@contextlib.contextmanager
def _interruptible(folder: Path, progress: Progress) -> Iterator[DelayedInterrupt]:
    """Inside, Ctrl-C and SIGTERM finish and save the step at hand; the message says how to go on."""
    with DelayedInterrupt() as interrupt:
        try:
            yield interrupt
        except KeyboardInterrupt:
            progress.close()
            how = (
                "stopped and saved" if interrupt.saved else "stopped; what came after the last checkpoint is done again"
            )
            progress.message(f"{how}; go on with: nesa resume {folder}")
            raise


def load_tasks(curriculum: Curriculum, data: Path | None, progress: Progress) -> tuple[list[TaskData], list[str]]:
    """Load the data of all tasks; returns them and the warnings that came with them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tasks = [load_task(curriculum, k, DataDirs(data), progress) for k in range(len(curriculum.tasks))]
    notes = [str(note.message) for note in caught if issubclass(note.category, UserWarning)]
    for note in notes:
        progress.warning(note)
    return tasks, notes


def run_name(curriculum: Curriculum, tasks: Sequence[TaskData]) -> str:
    """Return the curriculum's name, with every fallback that was used in it."""
    return "+".join([curriculum.name, *fallbacks(tasks)])


def check_memory(curriculum: Curriculum, device: torch.device, grown: int = 0) -> None:
    """Raise UserError where this machine lacks the memory that training needs: the kernel would kill the run.

    On a GPU torch itself raises. grown: neurons that a stored network has by now."""
    S = max(curriculum.network.neurons or sum(neurons(curriculum)), grown)
    need, have = TRAINING_COPIES * weight_bytes(S), _physical_memory()
    if device.type == "cpu" and need > have:
        raise UserError(
            f"network: {S:,} neurons need about {in_bytes(need)} to train (W, its gradient and two moments), and this "
            f"machine has {in_bytes(have)}; ask for fewer neurons"
        )


def _physical_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_device(device: str) -> torch.device:
    """Return the torch device of a name; UserError where this machine does not have it."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device}: this machine has no CUDA device that torch can use; try --device cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device {device}: not a device; use cpu or cuda") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s), from cuda:0")
    return place


__all__ = ["extend", "resume", "run"]
