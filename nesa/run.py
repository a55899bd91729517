"""A run: the whole curriculum, from data to claimed tasks, written down as it happens.

    load all data -> for each task: train, settle, claim, measure, evaluate every task so far, draw, checkpoint

Every random number of a task comes from (seed, task, purpose), so a run that is resumed after task k goes on exactly
as it would have. Nothing is trained before all data are there.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nesa import continuation, measure, metrics, tables
from nesa.accumulation import Accumulation, Rule
from nesa.config import Curriculum
from nesa.curriculum import dump, load
from nesa.digest import data_digest, digest, event_digest
from nesa.environment import environment
from nesa.errors import RunFailed, UserError
from nesa.folder import CURRICULUM, new_folder
from nesa.learner import AccumulatingURN, NeuralPruning
from nesa.progress import Progress
from nesa.record import Record
from nesa.saved import FORMAT, PROBE, machine
from nesa.seeds import derive
from nesa.stream import TaskData, load_task
from nesa.tasks import DataDirs
from urn.geometry import Layout, Metric

PROBES = 256  # test samples that are kept with each task and its logits for them, to prove that they never change
ROOM = 0.1  # a task needs at least this share of the hidden neurons to be free


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
) -> Path:
    """Trains the curriculum and returns the run folder. Raises UserError for wrong input, before anything is
    written, and RunFailed when training cannot go on."""
    curriculum = curriculum if seed is None else replace(curriculum, seed=seed)
    place = check_device(device)
    progress = progress or Progress(quiet=True)
    tasks, notes = load_tasks(curriculum, data, progress)
    out = Path("runs") if out is None else Path(out)
    folder = out / name if name else new_folder(out, run_name(curriculum, tasks))
    facts = environment(curriculum.seed, device, command)
    with _says_how_to_go_on(folder, progress), Record.create(folder, dump(curriculum), facts) as record:
        session = Session(curriculum, tasks, record, place, progress, machine(facts))
        session.begin(notes)
        session.go(0)
    return folder


def resume(folder: Path, *, data: Path | None = None, device: str = "cpu", progress: Progress | None = None) -> Path:
    """Goes on after the last task whose checkpoint is whole, to the same result as a run that was never interrupted.

    A finished run is left as it is. Raises RunFolderError when the curriculum or the data are not those that the run
    began with; other versions, another device or number of threads are a warning, in the record too."""
    folder = Path(folder)
    place = check_device(device)
    progress = progress or Progress(quiet=True)
    with _says_how_to_go_on(folder, progress), Record.open(folder) as record:
        curriculum = load(folder / CURRICULUM)
        continuation.check_curriculum(folder, record.events)
        if any(event["event"] == "run_finished" for event in record.events):
            progress.message(f"{folder}: this run is finished; nothing to resume")
            return folder
        tasks, notes = load_tasks(curriculum, data, progress)
        digests = {task.name: data_digest(task) for task in tasks}
        continuation.check_data(folder, record.events, fallbacks(tasks), digests)
        changes = [f"resumed although {change}" for change in continuation.changes(folder, device)]
        session = Session(curriculum, tasks, record, place, progress, machine(environment(curriculum.seed, device)))
        first, damage = session.restore()
        if first == 0:
            session.begin(notes)
        for note in [*damage, *changes]:
            progress.warning(note)
            record.event("warning", message=note)
        session.go(first)
    return folder


@contextlib.contextmanager
def _says_how_to_go_on(folder: Path, progress: Progress) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        progress.message(f"stopped; go on with: nesa resume {folder}")
        raise


def load_tasks(curriculum: Curriculum, data: Path | None, progress: Progress) -> tuple[list[TaskData], list[str]]:
    """All data of a curriculum, and the warnings that came with them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tasks = [load_task(curriculum, k, DataDirs(data), progress) for k in range(len(curriculum.tasks))]
    notes = [str(note.message) for note in caught if issubclass(note.category, UserWarning)]
    for note in notes:
        progress.warning(note)
    return tasks, notes


def fallbacks(tasks: Sequence[TaskData]) -> list[str]:
    """TASK=SOURCE for each task that had to fall back."""
    return [f"{task.name}={task.source_used}" for task in tasks if task.fallback]


def run_name(curriculum: Curriculum, tasks: Sequence[TaskData]) -> str:
    """The curriculum's name, with every fallback that was used in it."""
    return "+".join([curriculum.name, *fallbacks(tasks)])


def check_device(device: str) -> torch.device:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device}: this machine has no CUDA device that torch can use; try --device cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device {device}: not a device; use cpu or cuda") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s), from cuda:0")
    return place


def make_layout(curriculum: Curriculum, tasks: Sequence[TaskData]) -> Layout:
    """The neurons that a curriculum asks for, with one output port a task."""
    ports = {task.name: task.classes for task in tasks}
    network = curriculum.network
    try:
        if network.grid is not None:
            return Layout.grid(network.grid, curriculum.input.channels, ports)
        assert network.neurons is not None
        return Layout.flat(network.neurons, tasks[0].train.x.shape[1], ports)
    except ValueError as error:
        raise UserError(f"network: {error}; ask for more neurons") from None


class Session:
    """The state of a run between two tasks, and what happens to one task."""

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: list[TaskData],
        record: Record,
        device: torch.device,
        progress: Progress,
        machine: dict[str, Any],
    ):
        from nesa.strategy import make_learner

        self.curriculum, self.record, self.progress, self.device = curriculum, record, progress, device
        self.machine = machine
        self.digests = [data_digest(task) for task in tasks]
        self.tasks = [task.to(device) for task in tasks]
        self.metric = Metric(curriculum.penalties.beta, 1.0)
        self._digests: dict[str, str] = {}  # of the files that the task in hand has written
        self.probes: dict[str, torch.Tensor] = {}  # each task's logits on its probe batch, right after its claim
        self.started = time.perf_counter()  # a resumed run counts the seconds of its finished tasks
        network = curriculum.network
        self.accumulation = Accumulation(
            make_layout(curriculum, tasks), network.gain, inputs_receive=network.inputs_receive
        )
        self.learner = make_learner(curriculum, self.tasks, self.accumulation, device, self._report)

    def begin(self, notes: Sequence[str]) -> None:
        """Records how the run starts; resuming compares with it."""
        curriculum = self.curriculum
        self.record.event(
            "run_started",
            name=curriculum.name,
            seed=curriculum.seed,
            tasks=[task.name for task in self.tasks],
            learner=curriculum.learner.name,
            iterations=curriculum.network.iterations,
            update=curriculum.network.update,
            fallbacks=fallbacks(self.tasks),
            data=self.digests,
            curriculum=dump(curriculum),
        )
        for note in notes:
            self.record.event("warning", message=note)

    def go(self, first: int) -> None:
        """Trains tasks first, first + 1, ... to the end."""
        for k in range(first, len(self.tasks)):
            self._task(k)
        _, R = tables.accuracy(self.record.events)
        self.record.event(
            "run_finished",
            acc=metrics.acc(R),
            bwt=metrics.bwt(R),
            forgetting=metrics.forgetting(R),
            seconds=time.perf_counter() - self.started,
        )

    def restore(self) -> tuple[int, list[str]]:
        """Takes up the last checkpoint that is whole; returns the number of the task to train next, and a note for
        each checkpoint that is damaged."""
        count, state, notes = continuation.last_state(self.record.folder, self.record.events)
        self.record.rewind(count)
        if state is None:
            return 0, notes
        self.started -= self.record.events[-1]["seconds"]
        self.learner.load_state_dict(state["learner"])
        if isinstance(self.learner.model, AccumulatingURN):
            self.accumulation = self.learner.model.accumulation
            # computed anew: a later version, or another machine, may give other last bits to the same weights
            self.probes = {task.name: self._probe(task) for task in self.tasks[: state["next"]]}
        return state["next"], notes

    # --- one task ------------------------------------------------------------------------------------------------

    def _task(self, k: int) -> None:
        data, config = self.tasks[k], self.curriculum.tasks[k]
        self._make_room(data.name)
        began = time.perf_counter()
        self.record.event(
            "task_started",
            task=data.name,
            index=k,
            source=config.source,
            source_used=data.source_used,
            fallback=data.fallback,
            classes=data.classes,
            train=len(data.train),
            val=len(data.val),
            test=len(data.test),
            neurons_free=len(self.accumulation.free),
        )
        steps = max(1, len(data.train) // min(config.training.batch_size, len(data.train)))
        self.progress.task(data.name, k, len(self.tasks), config.training.epochs, steps)
        self.learner.train(k)
        if self.curriculum.learner.name == "neural_pruning":
            self._claimed(k, time.perf_counter() - began)
        for j in range(k + 1):
            self.record.event(
                "evaluated", after=data.name, task=self.tasks[j].name, accuracy=self.learner.accuracy(j, "test")
            )
        self._save(k)

    def _report(self, name: str, fields: dict[str, Any]) -> None:
        """Hears of epochs and of settling from the learner."""
        if name == "step":
            self.progress.step(fields["n"])
            return
        self.record.event(name, **fields)
        if name == "epoch":
            self.progress.epoch(
                fields["epoch"] + 1,
                loss=fields["loss"],
                val_accuracy=fields["val_accuracy"],
                live_neurons=fields["live_neurons"],
            )
        elif name == "settled":
            self._settled = fields

    def _claimed(self, k: int, seconds: float) -> None:
        """Measures, records and draws what task k has claimed; checks that no earlier answer has moved."""
        data, config = self.tasks[k], self.curriculum.tasks[k]
        accumulation = self.accumulation
        for earlier in self.tasks[: k + 1]:
            logits = self._probe(earlier)
            if not torch.equal(logits, self.probes.setdefault(earlier.name, logits)):
                raise RunFailed(f"task {data.name!r} has changed the answers of task {earlier.name!r}: not recorded")
        found = measure.measure(
            accumulation, data, self.curriculum.learner.margin, self.metric, derive(self.curriculum.seed, "null")
        )
        levels, strength = found.pop("levels"), found.pop("strength")
        settled = self._settled
        self.record.event(
            "task_claimed",
            task=data.name,
            index=k,
            source=data.source_used,
            fallback=data.fallback,
            classes=data.classes,
            accuracy_val_before=settled["accuracy_val_before"],
            accuracy_test_before=settled["accuracy_test_before"],
            theta=settled["theta"],
            weight_threshold=settled["weight_threshold"],
            seconds=seconds,
            iterations=config.iterations,
            **found,
        )
        members = accumulation.find(data.name).members
        network = accumulation.network(data.name)
        owner = accumulation.owner[members]
        structure = {
            "members": members,
            "owner": owner,
            "levels": levels,
            "strength": strength,
            "W": network.W.data,
            "b": network.b.data,
            "positions": network.layout.positions,
            "shape": list(data.shape or (data.train.x.shape[1],)),
            "class_names": list(data.class_names),
        }
        structure = {key: np.asarray(v.cpu() if isinstance(v, torch.Tensor) else v) for key, v in structure.items()}
        self.record.structure(data.name, **structure)
        probe = {
            "format": FORMAT,
            "x": data.test.x[:PROBES].cpu(),
            "logits": self.probes[data.name],
            "machine": self.machine,
        }
        self.record.checkpoint(data.name, probe, PROBE)
        self._digests = {"structure": digest(structure), "probe": digest(probe)}
        self._draw(data, network, owner, levels, strength)
        row = self.record.events
        self.progress.message(_line(next(e for e in reversed(row) if e["event"] == "task_claimed")))

    @torch.no_grad()
    def _probe(self, data: TaskData) -> torch.Tensor:
        """Logits (n, D_out) of a claimed task on the first of its test samples."""
        network = self.accumulation.network(data.name).to(self.device)
        return network(data.prepare(data.test.x[:PROBES]), data.name).cpu()

    def _draw(self, data: TaskData, network, owner, levels, strength) -> None:
        from nesa import figures

        show = self.record.figure
        rows = tables.accumulation(self.record.events)
        show("weights", figures.weight_matrix(network.W.data, None, levels, f"{data.name}: weights"), data.name)
        show("activities", figures.activities(strength, levels, f"{data.name}: activities"), data.name)
        show("neurons_by_level", figures.neurons_by_level(rows), data.name)
        show("depth", figures.depth_over_tasks(rows), data.name)
        new = (owner == self.accumulation.claims.index(self.accumulation.find(data.name))).nonzero().flatten()
        if data.shape is not None and len(new):
            W_in = network.W.data[new][:, network.layout.inputs]
            channels, H, W = data.shape
            title = f"{data.name}: what the new neurons read of the image"
            show("receptive_fields", figures.receptive_fields(W_in, (H, W), channels=channels, title=title), data.name)

    def _save(self, k: int) -> None:
        """Task k's checkpoint; the event says by digests what the run has written so far."""
        name = self.tasks[k].name
        events = event_digest(self.record.events)
        state = {"format": FORMAT, "next": k + 1, "events": events, "learner": self.learner.state_dict()}
        self.record.checkpoint(name, state)
        self.record.event(
            "checkpointed",
            task=name,
            checkpoint=digest(state),
            **self._digests,
            events=events,
            seconds=time.perf_counter() - self.started,
        )

    def _make_room(self, name: str) -> None:
        """Grows the network when too few neurons are free for a task, or says how many are missing."""
        if self.curriculum.learner.name != "neural_pruning":
            return
        accumulation, layout = self.accumulation, self.accumulation.layout
        hidden = int((accumulation.owner >= -1).sum())
        missing = int(ROOM * hidden) + 1 - len(accumulation.free)
        if missing <= 0:
            return
        if not self.curriculum.learner.grow:
            raise RunFailed(
                f"task {name!r}: only {len(accumulation.free)} of {hidden} hidden neurons are free, {missing} too few. "
                "Set learner.grow, ask for a larger network, or raise penalties.weight so that tasks claim less."
            )
        plane = layout.plane[0] * layout.plane[1] if layout.plane else 1
        count = -(-missing // plane)
        accumulation.grow(count)
        message = f"the network grew by {count * plane} neurons before task {name!r}: too few were free"
        self.record.event("warning", message=message)
        self.progress.warning(message)


def _line(row: dict[str, Any]) -> str:
    cut = "" if row["accuracy_cut"] is None else f", {row['accuracy_cut']:.1%} without what it reuses"
    return (
        f"{row['task']}: test {row['accuracy_test']:.1%}{cut}; {row['neurons_claimed']} new neurons "
        f"(levels {row['levels_claimed']}), {row['neurons_reused']} reused, {row['neurons_free']} free; "
        f"depth {row['depth_readout']} by readout, {row['depth_mean']:.2f} mean, {row['depth_graph']} graph"
    )


__all__ = ["AccumulatingURN", "NeuralPruning", "Rule", "Session", "resume", "run"]
