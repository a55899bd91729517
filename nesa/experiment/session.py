"""Run the tasks of a curriculum one after the other, and write what comes of each into the run folder.

train, prune, claim -> check the old answers -> measure, write, draw -> evaluate every task so far -> checkpoint
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
from nesa.config.sizes import planes_to_add
from nesa.errors import RunFailed
from nesa.experiment import task_figures
from nesa.figures.animation import Animation
from nesa.interrupts import DelayedInterrupt
from nesa.progress import Progress
from nesa.run_folder import metrics, resume_state, tables
from nesa.run_folder.digest import digest, event_digest
from nesa.run_folder.events import checkpoint_events, start_event
from nesa.run_folder.layout import ANIMATION, EARLIER, FORMAT, PROBE, TRAINING, TRAINING_FORMAT
from nesa.run_folder.writer import RunWriter
from nesa.seeds import derive
from nesa.training.accumulation import Accumulation
from nesa.training.build import make_accumulation
from nesa.training.evaluation import TaskMeasures, measure
from nesa.training.strategies.learner import make_learner
from nesa.training.task_data import TaskData, data_digest
from urn.layout import Distance

PROBES = 256  # test samples that are stored with each task and its logits for them, to prove that they never change


def fallbacks(tasks: Sequence[TaskData]) -> list[str]:
    """Return TASK=SOURCE for each task that had to fall back."""
    return [f"{task.name}={task.source_used}" for task in tasks if task.fallback]


class Session:
    """The state of a run between two tasks, and what happens to one task."""

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: list[TaskData],
        writer: RunWriter,
        device: torch.device,
        progress: Progress,
        machine: dict[str, Any],
        interrupt: DelayedInterrupt | None = None,
        *,
        animate: bool = True,
    ):
        """animate: whether the structure is animated while it trains, where one process has all of it."""
        self.curriculum, self.writer, self.progress, self.device = curriculum, writer, progress, device
        self.machine, self.interrupt = machine, interrupt
        self.digests = [data_digest(task) for task in tasks]
        self.tasks = [task.to(device) for task in tasks]
        self.probes: dict[str, torch.Tensor] = {}  # each task's logits on its probe batch, right after its claim
        self.started = time.perf_counter()  # a resumed run counts the seconds of its finished tasks
        empty = make_accumulation(curriculum, tasks)
        self.learner = make_learner(curriculum, self.tasks, empty, device, self._report)
        self.animation: Animation | None = None
        self.animate = animate and distributed.world() == 1 and self.learner.claims_neurons

    @property
    def accumulation(self) -> Accumulation:
        return self.learner.accumulation

    def begin(self, notes: Sequence[str], extending: str | None = None) -> None:
        """Write how the run starts, or that it goes on with more tasks; resuming compares with it.

        notes: warnings that came with the data. extending: the command that added the tasks."""
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
            self.writer.event("run_started", **values)
        else:
            self.writer.extend(**values, command=extending)
        self.warn(notes)

    def warn(self, notes: Sequence[str]) -> None:
        """Write warnings into the run folder."""
        for note in notes:
            self.writer.event("warning", message=note)

    def train_all(self, first: int, state: dict[str, Any] | None = None) -> None:
        """Train tasks first, first + 1, ... to the end. state: a checkpoint inside task `first`, to go on from."""
        for k in range(first, len(self.tasks)):
            self._train_task(k, state if k == first else None)
        _, R = tables.accuracy(self.writer.events)
        self.writer.event(
            "run_finished",
            acc=metrics.average_accuracy(R),
            bwt=metrics.backward_transfer(R),
            forgetting=metrics.forgetting(R),
            seconds=time.perf_counter() - self.started,
        )

    def restore(self, notes: Sequence[str] = ()) -> tuple[int, dict[str, Any] | None, list[str]]:
        """Restore the last checkpoint that is whole.

        Returns the number of the task to train next, the checkpoint inside it or None, and a warning for each
        checkpoint that is damaged. notes: as in `begin`, which is repeated where nothing after it is kept."""
        folder, events = self.writer.folder, self.writer.events
        count, state, damage = resume_state.last_state(folder, events)
        inside, more = resume_state.last_step(folder, events, count) if not damage else (None, [])
        seconds = checkpoint_events(events[:count])[-1]["seconds"] if state is not None else 0.0
        kept = inside["count"] if inside is not None else count
        lost = start_event(events[kept:])
        self.writer.rewind(kept)
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
        done = self.tasks[: state["next"]]
        for task in done:  # the run may have been killed before it removed them
            self.writer.remove_checkpoints(task.name, TRAINING, EARLIER, ANIMATION)
        if self.learner.claims_neurons:
            ports = self.accumulation.layout.ports  # of the tasks that were known when the checkpoint was written
            self.accumulation.add_ports({task.name: task.classes for task in self.tasks if task.name not in ports})
            # computed anew: a later version, or another machine, may give other last bits to the same weights
            self.probes = {task.name: self._probe(task) for task in done}
        return state["next"], inside, damage

    # --- one task ------------------------------------------------------------------------------------------------

    def _train_task(self, k: int, state: dict[str, Any] | None = None) -> None:
        data, config = self.tasks[k], self.curriculum.tasks[k]
        if self.learner.claims_neurons:
            self._grow_if_needed(data.name, announce=state is None)
        if self.animate:
            self.animation = Animation(**state["film"]) if state is not None and state["film"] else Animation()
        began = time.perf_counter() - (state["task_seconds"] if state is not None else 0.0)
        if state is None:
            self.writer.event(
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
        steps, tuning = self.learner.steps(k), self.learner.fine_tuning_epochs
        self.progress.task(data.name, k, len(self.tasks), config.training.epochs, steps, tuning)
        training = None if state is None else state["training"]
        if training is not None:
            self.progress.step(self.learner.steps_done(training))
        figures = self.learner.train(
            k, lambda training: self._save_step(data.name, training, began), training, self.interrupt
        )
        digests = {}
        if self.learner.claims_neurons:
            self._check_old_answers(k)
            digests = self._write_claim(k, figures, time.perf_counter() - began)
        for earlier in self.tasks[: k + 1]:
            score = self.learner.accuracy(earlier.index, "test")
            self.writer.event("evaluated", after=data.name, task=earlier.name, accuracy=score)
        self._save_task(k, digests)

    def _report(self, name: str, fields: dict[str, Any]) -> None:
        """Show and write the learner's events: steps, epochs, pruning, warnings."""
        if name == "step":
            self.progress.step(fields["n"])
            return
        self.writer.event(name, **fields)
        if name == "epoch":
            self.progress.epoch(
                fields["epoch"] + 1,
                loss=fields["loss"],
                val=fields["val_accuracy"],
                live=fields["live_neurons"],
                synapses=fields["live_synapses"],
            )
            if self.animation is not None:
                self.animation.add(*self.learner.weights(), f"epoch {fields['epoch'] + 1}", fields["live_neurons"])
        elif name == "warning":
            self.progress.warning(fields["message"])

    def _check_old_answers(self, k: int) -> None:
        """Raise RunFailed where a task's logits on its probe are not those right after its claim."""
        for earlier in self.tasks[: k + 1]:
            logits = self._probe(earlier)
            if not torch.equal(logits, self.probes.setdefault(earlier.name, logits)):
                name = self.tasks[k].name
                raise RunFailed(f"task {name!r} has changed the answers of task {earlier.name!r}: not recorded")

    def _write_claim(self, k: int, figures: dict[str, Any], seconds: float) -> dict[str, str]:
        """Measure, write and draw what task k has claimed; returns the digests of its files."""
        data, config, curriculum = self.tasks[k], self.curriculum.tasks[k], self.curriculum
        distance = Distance(curriculum.penalties.beta, 1.0)
        found = measure(self.accumulation, data, curriculum.learner.margin, distance, derive(curriculum.seed, "null"))
        row = self.writer.event(
            "task_claimed",
            task=data.name,
            index=k,
            source=data.source_used,
            fallback=data.fallback,
            classes=data.classes,
            **{
                key: figures[key]
                for key in ("accuracy_val_before", "accuracy_test_before", "theta", "weight_threshold")
            },
            seconds=seconds,
            iterations=config.iterations,
            **found.row,
        )
        digests = self._write_files(data, found)
        task_figures.draw(self.writer, curriculum, self.accumulation, data, found, self.animation)
        hidden = self.accumulation.hidden_count
        more = self.accumulation.more(k)
        self.writer.event("forecast", task=data.name, index=k, tasks_more=more, neurons_hidden=hidden)
        self.progress.close()
        self.progress.message(_summary(row, more))
        return digests

    def _write_files(self, data: TaskData, found: TaskMeasures) -> dict[str, str]:
        """Write a claimed task's structure.npz and probe.pt; returns their digests."""
        members = self.accumulation.find(data.name).members
        network = self.accumulation.network(data.name)
        structure = {
            "members": members,
            "owner": self.accumulation.owner[members],
            "levels": found.levels,
            "strength": found.activity,
            "W": network.W.data,
            "b": network.b.data,
            "positions": network.layout.positions,
            "shape": list(data.shape or (data.train.x.shape[1],)),
            "class_names": list(data.class_names),
        }
        structure = {key: np.asarray(v.cpu() if isinstance(v, torch.Tensor) else v) for key, v in structure.items()}
        self.writer.structure(data.name, **structure)
        probe = {
            "format": FORMAT,
            "x": data.test.x[:PROBES].cpu(),
            "logits": self.probes[data.name],
            "machine": self.machine,
        }
        self.writer.checkpoint(data.name, probe, PROBE)
        return {"structure": digest(structure), "probe": digest(probe)}

    @torch.no_grad()
    def _probe(self, data: TaskData) -> torch.Tensor:
        """Logits (n, D_out) of a claimed task on the first of its test samples."""
        network = self.accumulation.network(data.name).to(self.device)
        return network(data.prepare(data.test.x[:PROBES]), data.name).cpu()

    def _save_task(self, k: int, digests: dict[str, str]) -> None:
        """Write task k's checkpoint; the event holds digests of what the run has written so far."""
        name = self.tasks[k].name
        events = event_digest(self.writer.events)
        state = {"format": FORMAT, "next": k + 1, "events": events, "learner": self.learner.state_dict()}
        self.writer.checkpoint(name, state)
        self.writer.event(
            "checkpointed",
            task=name,
            checkpoint=digest(state),
            **digests,
            events=events,
            seconds=time.perf_counter() - self.started,
        )
        self.writer.remove_checkpoints(name, TRAINING, EARLIER, ANIMATION)

    def _save_step(self, name: str, training: dict[str, Any], began: float) -> None:
        """Write a checkpoint inside task `name`, with the number and the digest of the events before it."""
        state = {
            "format": TRAINING_FORMAT,
            "count": len(self.writer.events),
            "events": event_digest(self.writer.events),
            "task_seconds": time.perf_counter() - began,
            "run_seconds": time.perf_counter() - self.started,
            "training": training,
            "film": None if self.animation is None else self.animation.seen,
        }
        if self.animation is not None:
            frames = {"format": TRAINING_FORMAT, **self.animation.state()}
            self.writer.checkpoint(name, frames | {"digest": digest(frames)}, ANIMATION)
        self.writer.checkpoint(name, state | {"digest": digest(state)}, TRAINING, EARLIER)

    def _grow_if_needed(self, name: str, *, announce: bool) -> None:
        """Grow the network when too few neurons are free for a task, or raise RunFailed with how many are missing."""
        accumulation, layout = self.accumulation, self.accumulation.layout
        hidden = accumulation.hidden_count
        missing = accumulation.missing()
        if missing <= 0:
            return
        if not self.curriculum.learner.grow:
            raise RunFailed(
                f"task {name!r}: only {len(accumulation.free)} of {hidden} hidden neurons are free, {missing} too few. "
                "Set learner.grow, ask for a larger network, or raise penalties.weight so that tasks claim less."
            )
        plane = layout.plane[0] * layout.plane[1] if layout.plane else layout.layers or 1
        count = planes_to_add(missing, plane)
        accumulation.grow(count)
        if announce:
            message = f"the network grew by {count * plane} neurons before task {name!r}: too few were free"
            self.writer.event("warning", message=message)
            self.progress.warning(message)


def _summary(row: dict[str, Any], more: int | None) -> str:
    """A claimed task in three lines for people. more: `Accumulation.more`."""
    cut = "" if row["accuracy_cut"] is None else f" ({row['accuracy_cut']:.1%} without what it reuses)"
    levels = ", ".join(map(str, row["levels_claimed"]))
    indent = " " * len(row["task"])
    tasks = "such task fits" if more == 1 else "such tasks fit"
    forecast = "" if more is None else f"; {more or 'no'} more {tasks} without growing"
    return (
        f"{row['task']}: test {row['accuracy_test']:.1%}{cut}, {row['accuracy_test_before']:.1%} before pruning\n"
        f"{indent}  {row['neurons_claimed']} new neurons (by level: {levels}), {row['neurons_reused']} reused, "
        f"{row['neurons_free']} free\n"
        f"{indent}  depth {row['depth_readout']} by readout, {row['depth_mean']:.2f} mean, {row['depth_graph']} graph"
        f"{forecast}"
    )
