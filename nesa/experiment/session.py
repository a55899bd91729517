"""A run between its first and its last event: what happens to one task after the other, and what is kept of it.

train, settle, claim -> check the old answers -> measure, record, draw -> evaluate every task so far -> checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nesa import distributed
from nesa.config.curriculum import Curriculum
from nesa.config.loader import dump
from nesa.errors import RunFailed, UserError
from nesa.figures.animation import Animation
from nesa.inference.saved_run import EARLIER, FILM, FORMAT, PROBE, TRAINING, checkpointed
from nesa.interrupts import DelayedInterrupt
from nesa.progress import Progress
from nesa.run_folder import metrics, resume_state, tables
from nesa.run_folder.digest import data_digest, digest, event_digest
from nesa.run_folder.events import began
from nesa.run_folder.writer import RunWriter
from nesa.seeds import derive
from nesa.training import evaluation
from nesa.training.accumulation import Accumulation
from nesa.training.strategies.models import GrowingURN
from nesa.training.strategies.template import Pruning, make_learner
from nesa.training.task_data import TaskData
from urn.layout import Distance, Layout
from urn.network import URN

PROBES = 256  # test samples that are kept with each task and its logits for them, to prove that they never change


def fallbacks(tasks: Sequence[TaskData]) -> list[str]:
    """TASK=SOURCE for each task that had to fall back."""
    return [f"{task.name}={task.source_used}" for task in tasks if task.fallback]


def make_layout(curriculum: Curriculum, tasks: Sequence[TaskData]) -> Layout:
    """The neurons that a curriculum asks for, with one output port a task."""
    ports = {task.name: task.classes for task in tasks}
    network = curriculum.network
    try:
        if network.grid is not None:
            return Layout.grid(network.grid, curriculum.input.channels, ports)
        if network.layers is not None:
            return Layout.feedforward(network.layers, tasks[0].train.x.shape[1], ports)
        assert network.neurons is not None
        return Layout.flat(network.neurons, tasks[0].train.x.shape[1], ports)
    except ValueError as error:
        raise UserError(f"network: {error}; ask for more neurons") from None


def make_accumulation(curriculum: Curriculum, tasks: Sequence[TaskData]) -> Accumulation:
    """The network that a curriculum asks for, with nothing learned yet."""
    network = curriculum.network
    return Accumulation(make_layout(curriculum, tasks), network.gain, inputs_receive=network.inputs_receive)


class Session:
    """The state of a run between two tasks, and what happens to one task."""

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: list[TaskData],
        record: RunWriter,
        device: torch.device,
        progress: Progress,
        machine: dict[str, Any],
        stop: DelayedInterrupt | None = None,
        *,
        film: bool = True,
    ):
        """film: whether the structure is filmed while it is trained, where one process has all of it."""
        self.curriculum, self.record, self.progress, self.device = curriculum, record, progress, device
        self.machine, self.stop = machine, stop
        self.digests = [data_digest(task) for task in tasks]
        self.tasks = [task.to(device) for task in tasks]
        self.metric = Distance(curriculum.penalties.beta, 1.0)
        self._digests: dict[str, str] = {}  # of the files that the task in hand has written
        self.probes: dict[str, torch.Tensor] = {}  # each task's logits on its probe batch, right after its claim
        film = film and distributed.world() == 1
        self.film = Animation() if film and curriculum.learner.name == "neural_pruning" else None
        self.started = time.perf_counter()  # a resumed run counts the seconds of its finished tasks
        self.accumulation = make_accumulation(curriculum, tasks)
        self.learner = make_learner(curriculum, self.tasks, self.accumulation, device, self._report)

    def begin(self, notes: Sequence[str], extending: str | None = None) -> None:
        """Records how the run starts, or that it goes on with more tasks; resuming compares with it. notes: warnings
        that came with the data. extending: the command that has asked for more tasks."""
        curriculum = self.curriculum
        values = {
            "name": curriculum.name,
            "seed": curriculum.seed,
            "tasks": [task.name for task in self.tasks],
            "learner": curriculum.learner.name,
            "iterations": curriculum.network.iterations,
            "update": curriculum.network.update,
            "fallbacks": fallbacks(self.tasks),
            "data": self.digests,
            "curriculum": dump(curriculum),
        }
        if extending is None:
            self.record.event("run_started", **values)
        else:
            self.record.extend(**values, command=extending)
        self.warn(notes)

    def warn(self, notes: Sequence[str]) -> None:
        for note in notes:
            self.record.event("warning", message=note)

    def go(self, first: int, state: dict[str, Any] | None = None) -> None:
        """Trains tasks first, first + 1, ... to the end. state: what was kept inside task `first`, to go on from."""
        for k in range(first, len(self.tasks)):
            self._task(k, state if k == first else None)
        _, R = tables.accuracy(self.record.events)
        self.record.event(
            "run_finished",
            acc=metrics.acc(R),
            bwt=metrics.bwt(R),
            forgetting=metrics.forgetting(R),
            seconds=time.perf_counter() - self.started,
        )

    def restore(self, notes: Sequence[str] = ()) -> tuple[int, dict[str, Any] | None, list[str]]:
        """Takes up the last checkpoint that is whole; returns the number of the task to train next, what was kept
        inside it or None, and a warning for each checkpoint that is damaged. notes: as in `begin`, which is repeated
        where nothing that came after it is kept."""
        folder, events = self.record.folder, self.record.events
        count, state, damage = resume_state.last_state(folder, events)
        inside, more = resume_state.last_step(folder, events, count) if not damage else (None, [])
        seconds = checkpointed(events[:count])[-1]["seconds"] if state is not None else 0.0
        kept = inside["count"] if inside is not None else count
        lost = began(events[kept:])
        self.record.rewind(kept)
        self.started -= inside["run_seconds"] if inside is not None else seconds
        if kept == 0:
            self.begin(notes)
        elif lost is not None:
            self.begin(notes, extending=lost["command"])
        elif events[-1]["event"] == "extended":
            self.warn(notes)
        damage = [*damage, *more]
        if state is None:
            return 0, inside, damage
        self.learner.load_state_dict(state["learner"])
        for task in self.tasks[: state["next"]]:
            self.record.forget(task.name, TRAINING, EARLIER, FILM)  # the run may have been killed before it did this
        if isinstance(self.learner.model, GrowingURN):
            self.accumulation = self.learner.model.accumulation
            ports = self.accumulation.layout.ports  # of the tasks that were known when the checkpoint was written
            self.accumulation.add_ports({task.name: task.classes for task in self.tasks if task.name not in ports})
            # computed anew: a later version, or another machine, may give other last bits to the same weights
            self.probes = {task.name: self._probe(task) for task in self.tasks[: state["next"]]}
        return state["next"], inside, damage

    # --- one task ------------------------------------------------------------------------------------------------

    def _task(self, k: int, state: dict[str, Any] | None = None) -> None:
        data, config = self.tasks[k], self.curriculum.tasks[k]
        self._make_room(data.name, tell=state is None)
        if self.film is not None:
            self.film = Animation(**state["film"]) if state is not None and state["film"] else Animation()
        began = time.perf_counter() - (state["task_seconds"] if state is not None else 0.0)
        if state is None:
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
        healing = self.curriculum.learner.heal_epochs if isinstance(self.learner, Pruning) else 0
        steps = self.learner.steps(k)
        self.progress.task(data.name, k, len(self.tasks), config.training.epochs, steps, healing)
        if isinstance(self.learner, Pruning):
            training = None if state is None else state["training"]
            self.progress.step(training["steps"][2] if training is not None else 0)
            self.learner.train(k, lambda training: self._keep(data.name, training, began), training, self.stop)
            self._claimed(k, time.perf_counter() - began)
        else:
            self.learner.train(k)
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
                val=fields["val_accuracy"],
                live=fields["live_neurons"],
                synapses=fields["live_synapses"],
            )
            if self.film is not None:
                assert isinstance(self.learner, Pruning)
                model = self.learner.model
                self.film.add(
                    model.task_network.W.data, model.index, f"epoch {fields['epoch'] + 1}", fields["live_neurons"]
                )
        elif name == "settled":
            self._settled = fields
        elif name == "warning":
            self.progress.warning(fields["message"])

    def _claimed(self, k: int, seconds: float) -> None:
        """Measures, records and draws what task k has claimed; checks that no earlier answer has moved."""
        data, config = self.tasks[k], self.curriculum.tasks[k]
        accumulation = self.accumulation
        for earlier in self.tasks[: k + 1]:
            logits = self._probe(earlier)
            if not torch.equal(logits, self.probes.setdefault(earlier.name, logits)):
                raise RunFailed(f"task {data.name!r} has changed the answers of task {earlier.name!r}: not recorded")
        found = evaluation.measure(
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
        self._draw(data, network, levels, strength)
        row = next(e for e in reversed(self.record.events) if e["event"] == "task_claimed")
        hidden = int((accumulation.owner >= -1).sum())
        more = accumulation.more(k)
        self.record.event("forecast", task=data.name, index=k, tasks_more=more, neurons_hidden=hidden)
        self.progress.close()
        self.progress.message(_lines(row, more))

    @torch.no_grad()
    def _probe(self, data: TaskData) -> torch.Tensor:
        """Logits (n, D_out) of a claimed task on the first of its test samples."""
        network = self.accumulation.network(data.name).to(self.device)
        return network(data.prepare(data.test.x[:PROBES]), data.name).cpu()

    def _draw(self, data: TaskData, network: URN, levels: torch.Tensor, strength: torch.Tensor) -> None:
        from nesa.experiment import task_figures

        task_figures.draw(self.record, self.curriculum, self.accumulation, data, network, levels, strength, self.film)

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
        self.record.forget(name, TRAINING, EARLIER, FILM)

    def _keep(self, name: str, training: dict[str, Any], began: float) -> None:
        """Task `name` after a step, with the number and the digest of the events that it has seen."""
        state = {
            "format": FORMAT,
            "count": len(self.record.events),
            "events": event_digest(self.record.events),
            "task_seconds": time.perf_counter() - began,
            "run_seconds": time.perf_counter() - self.started,
            "training": training,
            "film": None if self.film is None else self.film.seen,
        }
        if self.film is not None:
            film = {"format": FORMAT, **self.film.state()}
            self.record.checkpoint(name, film | {"digest": digest(film)}, FILM)
        self.record.checkpoint(name, state | {"digest": digest(state)}, TRAINING, EARLIER)

    def _make_room(self, name: str, *, tell: bool) -> None:
        """Grows the network when too few neurons are free for a task, or says how many are missing."""
        if self.curriculum.learner.name != "neural_pruning":
            return
        accumulation, layout = self.accumulation, self.accumulation.layout
        hidden = int((accumulation.owner >= -1).sum())
        missing = accumulation.missing()
        if missing <= 0:
            return
        if not self.curriculum.learner.grow:
            raise RunFailed(
                f"task {name!r}: only {len(accumulation.free)} of {hidden} hidden neurons are free, {missing} too few. "
                "Set learner.grow, ask for a larger network, or raise penalties.weight so that tasks claim less."
            )
        plane = layout.plane[0] * layout.plane[1] if layout.plane else layout.layers or 1
        count = -(-missing // plane)
        accumulation.grow(count)
        if not tell:
            return
        message = f"the network grew by {count * plane} neurons before task {name!r}: too few were free"
        self.record.event("warning", message=message)
        self.progress.warning(message)


def _lines(row: dict[str, Any], more: int | None) -> str:
    """What a task has come to, for people. more: `Accumulation.more`."""
    cut = "" if row["accuracy_cut"] is None else f" ({row['accuracy_cut']:.1%} without what it reuses)"
    levels = ", ".join(map(str, row["levels_claimed"]))
    indent = " " * len(row["task"])
    tasks = "such task fits" if more == 1 else "such tasks fit"
    forecast = "" if more is None else f"; {more or 'no'} more {tasks} without growing"
    return (
        f"{row['task']}: test {row['accuracy_test']:.1%}{cut}, {row['accuracy_test_before']:.1%} before settling\n"
        f"{indent}  {row['neurons_claimed']} new neurons (by level: {levels}), {row['neurons_reused']} reused, "
        f"{row['neurons_free']} free\n"
        f"{indent}  depth {row['depth_readout']} by readout, {row['depth_mean']:.2f} mean, {row['depth_graph']} graph"
        f"{forecast}"
    )
