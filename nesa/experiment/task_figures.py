"""What a run shows of a task that has just been claimed: figures, a histogram, the connectome and the animation.

They go through the run's record, into its folder and to TensorBoard.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nesa.analysis.connectome import assemble_connectome
from nesa.config.curriculum import Curriculum
from nesa.errors import RunFolderError
from nesa.figures import run
from nesa.figures.animation import Animation, snapshot
from nesa.figures.connectome_page import scene
from nesa.run_folder import tables
from nesa.run_folder.layout import load_structure
from nesa.run_folder.writer import RunWriter
from nesa.training.accumulation import PORT, Accumulation
from nesa.training.task_data import TaskData
from urn.network import URN

WIDEST = 0.6  # where histograms of weights end, for all runs; what lies outside counts in the last bin


def draw(
    record: RunWriter,
    curriculum: Curriculum,
    accumulation: Accumulation,
    data: TaskData,
    network: URN,
    levels: Tensor,
    strength: Tensor,
    film: Animation | None,
) -> None:
    """network: the task's own, of n neurons. levels, strength: (n,), as `nesa.training.evaluation` found them."""
    show, name = record.figure, data.name
    rows, iterations = tables.accumulation(record.events), curriculum.network.iterations
    W, positions = network.W.data, network.layout.positions
    claim = accumulation.find(name)
    owner, number = accumulation.owner[claim.members], accumulation.claims.index(claim)
    show("weights", run.weight_matrix(W, None, levels, f"{name}: weights"), name)
    show("activities", run.activities(strength, levels, f"{name}: activities"), name)
    drawn = run.connectome(
        W, positions, None if network.layout.plane is not None else levels, owner, title=f"{name}: connectome"
    )
    show("connectome", drawn, name)
    show("neurons_by_level", run.neurons_by_level(rows), name)
    show("depth", run.depth_over_tasks(rows, iterations), name)
    new = (owner == number).nonzero().flatten()
    if data.shape is not None and len(new):
        W_in = W[new][:, network.layout.inputs]
        channels, H, width = data.shape
        title = f"{name}: what the new neurons read of the image"
        show("receptive_fields", run.receptive_fields(W_in, (H, width), channels=channels, title=title), name)
    _histogram(record, name, W[(owner == number) | (owner == PORT)])
    _connectome(record, name, accumulation)
    if film is not None:
        at = dict(zip(claim.members.tolist(), levels.tolist(), strict=True))
        layout, last = accumulation.layout, snapshot(W, claim.members, "settled", len(new))
        record.animation("evolution", film.gif(name, last, layout.positions, layout.inputs, at), name)


def _histogram(record: RunWriter, name: str, W: Tensor) -> None:
    """The weights that task `name` has added, in its rows W (n_k, n)."""
    weights = W[W != 0].cpu().clamp(-WIDEST, WIDEST)
    counts, edges = np.histogram(weights, np.linspace(-WIDEST, WIDEST, 61))
    step = tables.task_indices(record.events)[name]
    record.event("histogram", name="new_weights", task=name, step=step, edges=edges, counts=counts)


def _connectome(record: RunWriter, name: str, accumulation: Accumulation) -> None:
    """The page of all tasks so far, unless somebody has taken away what it is drawn from."""
    try:
        web = assemble_connectome(
            {claim.name: load_structure(record.folder, claim.name) for claim in accumulation.claims}
        )
    except RunFolderError:
        return
    record.page("connectome", scene(web, title=f"connectome after {name}"), name)


__all__ = ["draw"]
