"""Prove for each task of a stored run that the structure which the measures name is all that computes its outputs.

Three comparisons a task, on its test data:

    blocks     only the synapses from each level to the next are kept, as in a multi-layer perceptron (paper eq 1)
    named      the other blocks that contribute to the output, skips and recurrences, are kept too
    extracted  the task's network as a plain torch module of small dense layers (urn.mlp_conversion.extract)

Everything outside is set to zero, and the outputs are compared. Where the first fails, the network is no multi-layer
perceptron; where one of the others fails, the reported structure is not the one that computes. All of it is in float64,
where a difference is one of structure and not of rounding. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nesa.config.loader import load as load_curriculum
from nesa.inference.saved_run import load
from nesa.run_folder.layout import CURRICULUM
from nesa.run_folder.reader import read_probe
from nesa.training.task_data import normalise
from nesa.verification.stored_data import stored_data
from urn.measures.activity import NEVER
from urn.measures.block_proof import Proof, proof
from urn.mlp_conversion import extract

TOLERANCE = 1e-5  # of any output on any sample
BATCH = 1000


@dataclass(frozen=True)
class TaskProof:
    """The proof for one task. samples: how many and which. S: neurons of its network, ports included.
    extracted: the largest difference of an output of the extracted module."""

    task: str
    samples: str
    S: int
    blocks: Proof
    named: Proof
    extracted: float

    @property
    def holds(self) -> bool:
        """Return whether the named blocks, and the extracted module, give the outputs of the network."""
        return self.named.holds(TOLERANCE) and self.extracted <= TOLERANCE

    def lines(self) -> Iterator[str]:
        """Format the proof as lines of text."""
        yield f"{self.task}: {self.S:,} neurons, {self.named.nonzero:,} synapses, {self.samples}"
        more = ", ".join(f"{_level(a)} to {_level(b)}" for a, b in self.named.named)
        mark = _mark(self.named.holds(TOLERANCE))
        for begin, what, found in (("      ", "blocks l to l+1", self.blocks), (mark, "and named", self.named)):
            share, same = found.kept / max(found.nonzero, 1), f"{found.same_predictions:,} of {found.samples:,}"
            yield (
                f"{begin}{what:<17} {found.kept:,} synapses kept ({share:.1%}), {same} predictions the same, "
                f"outputs up to {found.max_difference:.1e} apart"
            )
        yield f"      named: {more or 'nothing beside l to l+1'}"
        yield f"{_mark(self.extracted <= TOLERANCE)}extracted module  outputs up to {self.extracted:.1e} apart"


def prove(folder: str | Path, task: str | None = None, data: str | Path | None = None) -> Iterator[TaskProof]:
    """Prove the structure of `task`, or of all tasks of the run in `folder`.

    data: the folder of data sets, as for `nesa run`; where they cannot be loaded, the samples that the run stored are
    used, as `samples` states. Raises RunFolderError for a folder that is no run or has no claimed task, UserError for
    an unknown task."""
    saved = load(folder)
    events = saved.run.checkpoints if task is None else [saved.checkpoint_of(task)]
    curriculum = load_curriculum(Path(folder) / CURRICULUM)
    for event in events:
        name = event["task"]
        found = stored_data(saved.run, curriculum, name, None if data is None else Path(data))
        extra = saved.accumulation.find(name).extra
        if isinstance(found, str):
            raw = read_probe(folder, event)["x"]
            samples = f"{len(raw):,} stored test samples ({found})"
        else:
            raw, samples = found.test.x, f"{len(found.test):,} test samples"
        x = normalise(raw, extra["mean"], extra["std"]).double()
        network = saved.accumulation.network(name).double()
        module = extract(network, name)
        pairs = ((network(part, name), module(part)) for part in x.split(BATCH))
        yield TaskProof(
            task=name,
            samples=samples,
            S=network.S,
            blocks=proof(network, x, name, batch_size=BATCH),
            named=proof(network, x, name, skips=None, batch_size=BATCH),
            extracted=max(float((y - z).abs().max()) for y, z in pairs),
        )


def _mark(holds: bool) -> str:
    return "ok    " if holds else "FAIL  "


def _level(level: int) -> str:
    return "constant" if level == NEVER else str(level)
