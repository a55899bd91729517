"""Check that a stored run has not changed what earlier tasks learned, and that its reported scores can be reproduced.

    one_way     no free or later neuron has a synapse into a claimed one
    weights     a task's rows are the same by value in its own checkpoint and in the last one
    answers     a task's logits are the same bit for bit, from its own checkpoint and from the last one
    recorded    they are also those that were recorded at its claim, where the machine is the same
    accuracy    R, measured again
    row         the task's row of accumulation.csv, measured again
    scores      R of a baseline learner, measured again

`own` is what had been accumulated right after the task, `last` after the last task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nesa.config.curriculum import Curriculum
from nesa.neuron_owner import INPUT
from nesa.run_folder.events import Event, new_event
from nesa.run_folder.tables import ACCUMULATION
from nesa.seeds import derive
from nesa.training import evaluation
from nesa.training.accumulation import Accumulation
from nesa.training.task_data import TaskData, normalise
from urn.layout import Distance

# Functions of the weights alone: the same on every machine. The other measures run data through the network.
OF_WEIGHTS = ("neurons_claimed", "neurons_total", "neurons_free", "claimed_share", "neurons_reused", "synapses")
ROUNDING = 2  # samples whose answer may change by the rounding of another machine
NEAR = 1e-3  # relative and absolute: far above rounding, far below what a changed weight does to some logit


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it holds, and details."""

    name: str
    ok: bool
    detail: str = ""


def one_way(after: str, accumulation: Accumulation) -> Check:
    """Check that no synapse leads from a neuron that is free, or claimed by a later task, into a claimed one.

    Input neurons are final with the first task (from the start where they do not receive); ports have no outgoing
    synapses."""
    name = f"one way {after}"
    stored, W = accumulation.stored, accumulation.W
    owner = accumulation.owner[stored].long()
    sender = torch.where(owner >= 0, owner, len(accumulation.claims))
    sender[owner == INPUT] = -1
    receiver = torch.where(owner >= 0, owner, -1)
    receiver[owner == INPUT] = 0 if accumulation.inputs_receive else -2
    for number, claim in enumerate(accumulation.claims):
        receiver[torch.searchsorted(stored, accumulation.layout.ports[claim.name])] = number
    wrong = (W != 0) & (sender[None, :] > receiver[:, None])
    if bool(wrong.any()):
        to, frm = (int(stored[i]) for i in wrong.nonzero()[0])
        return Check(name, False, f"{int(wrong.sum())} forbidden synapses, such as from neuron {frm} into neuron {to}")
    if not bool(W.isfinite().all() and accumulation.b.isfinite().all()):
        return Check(name, False, "some claimed weights are not finite")
    return Check(
        name, True, f"none of {int((W != 0).sum())} synapses leads from a free or later neuron into a claimed one"
    )


def weights(task: str, own: Accumulation, last: Accumulation) -> Check:
    """Check that rows, biases, owners and dynamics of `own` are unchanged in `last`, and that no synapse was added."""
    name = f"weights {task}"
    place = torch.searchsorted(last.stored, own.stored).clamp(max=len(last.stored) - 1)
    if not torch.equal(last.stored[place], own.stored):
        return Check(name, False, "the last checkpoint has lost some of its neurons")
    rows = last.W[place]
    new = torch.ones(len(last.stored), dtype=torch.bool)
    new[place] = False
    moved = int((rows[:, place] != own.W).sum()) + int((last.b[place] != own.b).sum())
    added = int((rows[:, new] != 0).sum())
    if moved or added:
        return Check(name, False, f"{_later(own, last)} {moved} frozen weights have moved and {added} were added")
    if not torch.equal(last.owner[own.stored], own.owner[own.stored]):
        return Check(name, False, "some neurons have changed their owner")
    for before, now in zip(own.claims, last.claims, strict=False):
        same = (before.name, before.dynamics, before.extra) == (now.name, now.dynamics, now.extra)
        if not same or not torch.equal(before.members, now.members):
            return Check(name, False, f"the last checkpoint runs {before.name} with other dynamics or on other neurons")
    return Check(name, True, f"{int((own.W != 0).sum())} weights the same by value {_later(own, last)}")


def answers(task: str, own: Accumulation, last: Accumulation, x: Tensor) -> Check:
    """Check that the logits of a task on its raw samples x (n, D_in) are bit for bit those of its own checkpoint."""
    before, now = logits(task, own, x), logits(task, last, x)
    if torch.equal(before, now):
        return Check(f"answers {task}", True, f"{len(x)} x {now.shape[1]} logits torch.equal {_later(own, last)}")
    other = int((before != now).any(1).sum())
    return Check(f"answers {task}", False, f"{_later(own, last)} {other} of {len(x)} samples have other logits")


def recorded(task: str, own: Accumulation, probe: Mapping[str, Any], here: Mapping[str, Any]) -> Check:
    """Check that the logits are those recorded at the claim; on another machine, up to rounding.

    probe: of `nesa.run_folder.reader.read_probe`. here: `nesa.run_folder.environment.machine` of this process."""
    name, before, now = f"recorded {task}", probe["logits"], logits(task, own, probe["x"])
    if torch.equal(before, now):
        return Check(name, True, "torch.equal to the logits recorded at its claim")
    off = float((before - now).abs().max())
    foreign = [f"{key} {value}" for key, value in probe["machine"].items() if value != here.get(key)]
    if not foreign:
        return Check(name, False, f"not the logits recorded at its claim on this machine: up to {off:.1e} off")
    if torch.allclose(before, now, rtol=NEAR, atol=NEAR):
        return Check(name, True, f"for information: recorded with {', '.join(foreign)}, {off:.1e} from here")
    return Check(name, False, f"recorded with {', '.join(foreign)}, {off:.1e} from here, which is more than rounding")


def accuracy(data: TaskData, last: Accumulation, events: Sequence[Event], same: bool) -> Check:
    """Check that R[i, task] is the accuracy measured now for every i. same: whether the run was on this machine."""
    name, found = f"accuracy {data.name}", evaluation.task_accuracy(last.network(data.name), data, "test")
    allowed = 0.0 if same else ROUNDING / len(data.test)
    reported = [e for e in events if e["event"] == "evaluated" and e["task"] == data.name]
    wrong = [e for e in reported if e["accuracy"] is None or abs(e["accuracy"] - found) > allowed]
    if wrong or not reported:
        reports = ", ".join(f"{e['accuracy']} after {e['after']}" for e in wrong) or "nothing"
        return Check(name, False, f"measured again {found} on test data, the run reported {reports}")
    return Check(name, True, f"{found:.4f} on test data, as in R ({len(reported)} times)")


def scores(
    after: str, tasks: Sequence[TaskData], measured: Callable[[int, str], float], events: Sequence[Event], same: bool
) -> Check:
    """Check one row of R of a baseline learner. tasks: learned so far. measured(j, "test"): the score of task j."""
    reported = {e["task"]: e["accuracy"] for e in events if e["event"] == "evaluated" and e["after"] == after}
    wrong = []
    for j, data in enumerate(tasks):
        before, now = reported.get(data.name), measured(j, "test")
        if before is None or abs(before - now) > (0.0 if same else ROUNDING / len(data.test)):
            wrong.append(f"{data.name} {now}, reported {before}")
    if wrong:
        return Check(f"accuracy after {after}", False, f"measured again on test data: {'; '.join(wrong)}")
    return Check(f"accuracy after {after}", True, f"{len(tasks)} scores on test data as in R")


def row(data: TaskData, own: Accumulation, events: Sequence[Event], curriculum: Curriculum, same: bool) -> Check:
    """Check every measure of a row of accumulation.csv that does not need the network from before pruning."""
    name = f"row {data.name}"
    claimed = next(e for e in events if e["event"] == "task_claimed" and e["task"] == data.name)
    distance, seed = Distance(curriculum.penalties.beta, 1.0), derive(curriculum.seed, "null")
    found = evaluation.measure(own, data, curriculum.learner.margin, distance, seed).row
    again = new_event("task_claimed", {key: claimed.get(key) for key in ACCUMULATION} | found, [])
    wrong, left_out = [], []
    for key in found:
        before, now = claimed.get(key), again[key]
        if same or key in OF_WEIGHTS:
            close = before == now
        elif key.startswith("accuracy") and before is not None and now is not None:
            close = abs(before - now) <= ROUNDING / len(data.val if "val" in key else data.test)
        else:
            left_out.append(key)
            continue
        if not close:
            wrong.append(f"{key} {now}, reported {before}")
    if wrong:
        return Check(name, False, f"measured again: {'; '.join(wrong)}")
    rest = f"; another machine rounds differently, so not {', '.join(left_out)}" if left_out else ""
    return Check(name, True, f"{len(found) - len(left_out)} measures as reported{rest}")


@torch.no_grad()
def logits(task: str, accumulation: Accumulation, x: Tensor) -> Tensor:
    """Compute logits (n, D_out) of raw samples x (n, D_in), with the task's own normalisation."""
    extra = accumulation.find(task).extra
    return accumulation.network(task)(normalise(x, extra["mean"], extra["std"]), task)


def _later(own: Accumulation, last: Accumulation) -> str:
    count = len(last.claims) - len(own.claims)
    return f"after {count} later task{'' if count == 1 else 's'}"
