"""NESA's claim and the controls that could refute it (docs/results/nesa.md): one row for each task of each condition.

    NESA_DATA=DIR PYTHONPATH=. python studies/continual.py CONDITION ... --seeds 0,1,2 [--keep DIR] [key=value ...]

    main            curricula/vision.yaml as it is
    dense           the same without compaction
    alone-TASK      a task by itself, from scratch, with the same budget
    reverse         the last task first
    middle          the second task first, then the last, then the first
    shuffled        the tasks before the last with shuffled labels, in training and validation
    random          the last task after neurons as many as main's first tasks claimed, of random weights as large
    healed-TASK     a later task of main without its synapses from earlier tasks' neurons, then healed for as many
                    steps as it was trained and healed for
    share-P         the last task on P per cent of its training images, after main's first tasks; sqrt(100 / P) times
                    as many epochs, batches of 64 under 20 %
    scratch-P       the same from scratch
    naive, ewc, replay, lwf, joint    the rivals, same network, loop and prices

A finished task is a row of docs/results/rows/nesa.csv, and is not computed again; --table prints what is there.
`random`, `healed` and `share` start from what main has learned, without any other keys, which --keep holds as files:
they are made again where they are missing. Other keys of the curriculum are for trials: rows that were made with any
carry them in the column `keys`, and with these conditions they are the keys of what comes after main's tasks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from result_rows import Rows
from torch.nn.functional import cross_entropy

from nesa.config.curriculum import Curriculum, Task
from nesa.config.loader import load
from nesa.experiment.run import load_tasks
from nesa.experiment.session import make_accumulation
from nesa.progress import Progress
from nesa.run_folder import metrics
from nesa.run_folder.checkpoint import save
from nesa.seeds import derive
from nesa.training import evaluation
from nesa.training.accumulation import Accumulation
from nesa.training.batches import Batches
from nesa.training.strategies.learner import make_learner
from nesa.training.strategies.pruning_learner import PruningLearner
from nesa.training.task_data import Samples, TaskData
from urn.layout import Distance
from urn.measures import structure
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty, early_loss

CURRICULUM = Path(__file__).resolve().parents[1] / "curricula" / "vision.yaml"
RIVALS = ("naive", "ewc", "replay", "lwf", "joint")
STRENGTH = {  # the defaults of both hardly differ from naive
    "ewc": ("learner.params.lambda=1e5",),
    "replay": ("learner.params.memory=2000",),
}
MEASURED = (
    "neurons_claimed",
    "neurons_total",
    "neurons_free",
    "neurons_reused",
    "reuse_share",
    "accuracy_cut",
    "depth_readout",
    "depth_mean",
    "depth_graph",
    "levels_claimed",
    "readout_scores",
    "synapses",
    "locality",
)


class Study:
    """The conditions of one seed, and where their rows go."""

    def __init__(self, rows: Rows, seed: int, keys: Sequence[str], keep: Path | None, data: Path | None):
        self.rows, self.seed, self.keys, self.keep, self.data = rows, seed, tuple(keys), keep, data
        self.curriculum = load(CURRICULUM, [*keys, f"seed={seed}"])
        self.progress = Progress()
        self._data: list[TaskData] | None = None

    @property
    def tasks(self) -> list[TaskData]:
        if self._data is None:
            self._data = load_tasks(self.curriculum, self.data, self.progress)[0]
        return self._data

    def run(self, condition: str) -> None:
        if self.rows.has(condition=condition, seed=self.seed, keys=" ".join(self.keys)):
            print(f"{condition}, seed {self.seed}: there already")
            return
        name, _, rest = condition.partition("-")
        last = len(self.curriculum.tasks) - 1
        if condition in ("main", "dense"):
            learner = replace(self.curriculum.learner, compaction=condition == "main")
            self.learn(condition, replace(self.curriculum, learner=learner), self.tasks)
        elif name == "alone":
            self.learn(condition, *self.order([self.number(rest)]))
        elif condition == "reverse":
            self.learn(condition, *self.order(range(last, -1, -1)))
        elif condition == "middle":
            self.learn(condition, *self.order([1, *range(2, last + 1), 0]))
        elif condition == "shuffled":
            self.learn(condition, self.curriculum, [*map(self.shuffled, self.tasks[:last]), self.tasks[last]])
        elif condition in RIVALS:
            keys = [f"learner.name={condition}", *STRENGTH.get(condition, ())]
            self.learn(condition, load(CURRICULUM, [*self.keys, f"seed={self.seed}", *keys]), self.tasks)
        elif condition == "random":
            self.learn(condition, self.curriculum, self.tasks, last, randomised(self.before(last), self.seed))
        elif name == "healed":
            self.heal(condition, self.number(rest))
        elif name in ("share", "scratch"):
            percent = float(rest)
            curriculum, tasks = self.curriculum, self.tasks
            if name == "scratch":
                curriculum, tasks = self.order([last])
            curriculum = replace(curriculum, tasks=(*curriculum.tasks[:-1], longer(curriculum.tasks[-1], percent)))
            tasks = [*tasks[:-1], part(tasks[-1], percent, self.seed)]
            start = self.before(last) if name == "share" else None
            self.learn(condition, curriculum, tasks, len(tasks) - 1, start)
        else:
            sys.exit(f"no condition is called {condition!r}")

    def number(self, name: str) -> int:
        return [task.name for task in self.curriculum.tasks].index(name)

    def order(self, which: Sequence[int]) -> tuple[Curriculum, list[TaskData]]:
        """The curriculum of these tasks alone, in this order."""
        tasks = [replace(self.tasks[k], index=place) for place, k in enumerate(which)]
        return replace(self.curriculum, tasks=tuple(self.curriculum.tasks[k] for k in which)), tasks

    def shuffled(self, data: TaskData) -> TaskData:
        generator = torch.Generator().manual_seed(derive(self.seed, "shuffled", data.name))
        train, val = (Samples(x.x, x.y[torch.randperm(len(x), generator=generator)]) for x in (data.train, data.val))
        return replace(data, train=train, val=val)

    # --- learning ------------------------------------------------------------------------------------------------

    def learn(
        self,
        condition: str,
        curriculum: Curriculum,
        tasks: list[TaskData],
        first: int = 0,
        accumulation: Accumulation | None = None,
    ) -> None:
        """Trains tasks first, first + 1, ... and adds their rows; keeps what main has learned before each task."""
        found: list[dict[str, Any]] = []
        if accumulation is None:
            accumulation = make_accumulation(curriculum, tasks)
        heard: dict[str, Any] = {}
        learner = make_learner(
            curriculum, tasks, accumulation, torch.device("cpu"), lambda name, fields: self.hear(heard, name, fields)
        )
        R: list[list[float]] = []
        for k in range(first, len(tasks)):
            began = time.perf_counter()
            epochs = curriculum.tasks[k].training.epochs
            self.progress.task(f"{condition} {tasks[k].name}", k, len(tasks), epochs, learner.steps(k), 0)
            learner.train(k)
            row: dict[str, Any] = dict.fromkeys(
                ("accuracy_val_before", "accuracy_test_before", "accuracy_val", "accuracy_test", *MEASURED)
            )
            if isinstance(learner, PruningLearner):
                row |= {key: heard["settled"][key] for key in ("accuracy_val_before", "accuracy_test_before")}
                metric = Distance(curriculum.penalties.beta, 1.0)
                margin, null = curriculum.learner.margin, derive(curriculum.seed, "null")
                seen = evaluation.measure(learner.model.accumulation, tasks[k], margin, metric, null)
                row |= {key: seen[key] for key in (*MEASURED, "accuracy_val", "accuracy_test")}
                if condition == "main" and self.keep is not None and not self.keys:
                    save(self.kept(k + 1), learner.model.accumulation.state_dict())
            R.append([learner.accuracy(j, "test") for j in range(first, k + 1)])
            row["accuracy_val"], row["accuracy_test"] = learner.accuracy(k, "val"), R[-1][-1]
            row |= {"train": len(tasks[k].train), "seconds": time.perf_counter() - began, "healed": None}
            found.append({"task": tasks[k].name, "place": k} | row)
            self.progress.close()
            print({key: value for key, value in found[-1].items() if value is not None}, flush=True)
        width = len(R)
        square = torch.full((width, width), float("nan"), dtype=torch.float64)
        for i, scores in enumerate(R):
            square[i, : i + 1] = torch.tensor(scores)
        bwt = metrics.backward_transfer(square.numpy()) if width > 1 else None
        for row, final in zip(found, R[-1], strict=True):  # all at once: a condition is there in full, or not at all
            self.add(condition, row | {"accuracy_final": final, "bwt": bwt})

    def hear(self, heard: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
        heard[name] = fields
        if name == "step":
            self.progress.step(fields["n"])
        elif name == "epoch":
            self.progress.epoch(
                fields["epoch"] + 1, loss=fields["loss"], val=fields["val_accuracy"], live=fields.get("live_neurons", 0)
            )

    def add(self, condition: str, row: dict[str, Any]) -> None:
        self.rows.add(condition=condition, seed=self.seed, keys=" ".join(self.keys), **row)

    # --- from what main has learned ------------------------------------------------------------------------------

    def kept(self, k: int) -> Path:
        assert self.keep is not None
        (self.keep / f"seed-{self.seed}").mkdir(parents=True, exist_ok=True)
        return self.keep / f"seed-{self.seed}" / f"before-{k}.pt"

    def before(self, k: int) -> Accumulation:
        """What main, without other keys, had accumulated before its task k: from --keep, else learned again."""
        if self.keys:
            if other := [key for key in self.keys if key.startswith(("network.", "input."))]:
                sys.exit(f"{' '.join(other)}: this condition starts from main's own network; leave it out")
            return Study(self.rows, self.seed, (), self.keep, self.data).before(k)
        if self.keep is not None and self.kept(k).exists():
            return Accumulation.from_state_dict(torch.load(self.kept(k), weights_only=True))
        accumulation, place = make_accumulation(self.curriculum, self.tasks), torch.device("cpu")
        learner = make_learner(self.curriculum, self.tasks, accumulation, place, lambda name, fields: None)
        assert isinstance(learner, PruningLearner)
        for earlier in range(k):
            learner.train(earlier)
            if self.keep is not None:
                save(self.kept(earlier + 1), learner.model.accumulation.state_dict())
        return learner.model.accumulation

    def heal(self, condition: str, k: int) -> None:
        """Main's task k without the synapses from earlier tasks' neurons, healed for as long as it was trained."""
        began = time.perf_counter()
        data, config = self.tasks[k], self.curriculum.tasks[k]
        accumulation = self.before(k + 1)
        entry = accumulation.find(data.name)
        owner, network = accumulation.owner[entry.members], accumulation.network(data.name)
        port = network.layout.ports[data.name]
        cut = structure.cut_reuse(network.W.data, owner, k, port)
        fixed = owner != k
        fixed[port] = False
        urn = network.subnetwork(torch.arange(network.S)).requires_grad_(True)
        urn.set_parameters(network.layout, cut, network.b.data.clone(), fixed)
        before = evaluation.accuracy(urn, data, data.test)
        urn.mask = cut != 0
        epochs = config.training.epochs + self.curriculum.learner.heal_epochs
        self.progress.task(f"healed {data.name}", k, len(self.tasks), epochs, len(data.train) // 256, 0)
        train(urn, data, config, epochs, derive(self.seed, "healed", data.name))
        healed = evaluation.accuracy(urn, data, data.test)
        row: dict[str, Any] = dict.fromkeys(
            ("accuracy_val_before", "accuracy_test_before", "accuracy_val", "accuracy_final", "bwt", *MEASURED)
        )
        row |= {"task": data.name, "place": k, "train": len(data.train), "seconds": time.perf_counter() - began}
        row |= {
            "accuracy_test": evaluation.accuracy(network, data, data.test),
            "accuracy_cut": before,
            "healed": healed,
        }
        self.add(condition, row)
        print({key: value for key, value in row.items() if value is not None}, flush=True)


def train(urn: URN, data: TaskData, config: Task, epochs: int, seed: int) -> None:
    """Trains the free rows within the support, without prices, as healing does."""
    optimizer = Proximal(urn, config.training.optimizer, config.training.lr)
    batches = Batches(data, data.train, config.training.batch_size, seed, config.augment)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    share = config.penalties.early_readout
    for _ in range(epochs):
        for x, y, _ in batches:
            done = urn.training_pass(x, data.name, Penalty(early_readout=share))
            loss = (1 - share) * cross_entropy(done.logits, y)
            if done.early is not None:
                loss = loss + share * early_loss(cross_entropy, [(slice(None), done.early)], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def part(data: TaskData, percent: float, seed: int) -> TaskData:
    """`percent` of the training samples, of each class alike; validation and test as they are."""
    if percent >= 100:
        return data
    generator = torch.Generator().manual_seed(derive(seed, "part", data.name))
    picks = []
    for label in range(data.classes):
        of_class = (data.train.y == label).nonzero().flatten()
        count = max(1, round(len(of_class) * percent / 100))
        picks.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    index = torch.cat(picks).sort().values
    return replace(data, train=Samples(data.train.x[index], data.train.y[index]))


def longer(task: Task, percent: float) -> Task:
    """The training of a task that has `percent` of its samples."""
    training = task.training
    epochs = round(training.epochs * (100 / percent) ** 0.5)
    return replace(
        task, training=replace(training, epochs=epochs, batch_size=64 if percent < 20 else training.batch_size)
    )


def randomised(accumulation: Accumulation, seed: int) -> Accumulation:
    """The same neurons with the same number of synapses of the same sizes, each to a sender drawn anew among those of
    its kind (inputs, hidden neurons claimed so far); structure without anything learned in it."""
    generator = torch.Generator().manual_seed(derive(seed, "random", "structure"))
    owner = accumulation.owner[accumulation.stored]
    for kind in (owner == -2, owner >= 0):
        columns = kind.nonzero().flatten()
        for row in (owner >= 0).nonzero().flatten().tolist():
            allowed = columns[(owner[columns] <= owner[row])]
            values = accumulation.W[row, allowed]
            accumulation.W[row, allowed] = values[torch.randperm(len(allowed), generator=generator)]
    return accumulation


def table(rows: Rows) -> str:
    """Markdown: a line for each condition and task, means over its seeds, +- the standard deviation."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows.rows:
        groups.setdefault((row["condition"], row["keys"], row["task"]), []).append(row)
    shown = {
        "accuracy_test": 100.0,
        "accuracy_cut": 100.0,
        "healed": 100.0,
        "neurons_claimed": 1.0,
        "neurons_reused": 1.0,
        "depth_readout": 1.0,
        "depth_mean": 1.0,
        "depth_graph": 1.0,
        "accuracy_final": 100.0,
    }
    lines = [f"| condition | task | seeds | {' | '.join(shown)} |", "|---" * (len(shown) + 3) + "|"]
    for (condition, keys, task), of in groups.items():
        seeds = " ".join(row["seed"] for row in of)
        cells = [spread([scale * float(row[key]) for row in of if row[key]]) for key, scale in shown.items()]
        lines.append(f"| {condition} {keys} | {task} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.2f}" + (f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="CONDITION | key=value")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rows", type=Path, help="another file than docs/results/rows/nesa.csv")
    args = parser.parse_intermixed_args()
    if args.table:
        print(table(Rows(args.rows) if args.rows else Rows.of("nesa")))
        return
    conditions = [word for word in args.words if "=" not in word]
    rows = Rows(args.rows) if args.rows else Rows.of("nesa")
    for condition in conditions:
        for seed in map(int, args.seeds.split(",")):
            Study(rows, seed, [word for word in args.words if "=" in word], args.keep, args.data).run(condition)


if __name__ == "__main__":
    main()
