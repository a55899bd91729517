"""Draw the figures of a task that has just been claimed, and write them into the run folder and to TensorBoard."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nesa.analysis.connectome import assemble_connectome
from nesa.config.curriculum import Curriculum
from nesa.errors import RunFolderError
from nesa.figures.animation import Animation, snapshot
from nesa.figures.connectome import connectome
from nesa.figures.connectome_page import connectome_page
from nesa.figures.network import activities, receptive_fields, weight_matrix
from nesa.figures.run import depth_over_tasks, neurons_by_level
from nesa.figures.style import render
from nesa.neuron_owner import PORT
from nesa.run_folder import tables
from nesa.run_folder.reader import load_structure
from nesa.run_folder.writer import RunWriter
from nesa.training.accumulation import Accumulation
from nesa.training.evaluation import TaskMeasures
from nesa.training.task_data import TaskData

WIDEST = 0.6  # where histograms of weights end, for all runs; what lies outside counts in the last bin


def draw(
    writer: RunWriter,
    curriculum: Curriculum,
    accumulation: Accumulation,
    data: TaskData,
    found: TaskMeasures,
    animation: Animation | None,
) -> None:
    """Draw every figure of a task: weights, activities, connectome, neurons, depth, receptive fields, animation.

    found: of `nesa.training.evaluation.measure`. animation: None where the structure was not recorded in training."""
    name, claim = data.name, accumulation.find(data.name)
    network = accumulation.network(name)
    rows, iterations = tables.accumulation(writer.events), curriculum.network.iterations
    W, positions, levels = network.W.data, network.layout.positions, found.levels
    owner, number = accumulation.owner[claim.members], accumulation.claims.index(claim)
    levels_in_place_of_z = None if network.layout.plane is not None else levels
    figures = {
        "weights": weight_matrix(W, None, levels, f"{name}: weights"),
        "activities": activities(found.activity, levels, f"{name}: activities"),
        "connectome": connectome(W, positions, levels_in_place_of_z, owner, title=f"{name}: connectome"),
        "neurons_by_level": neurons_by_level(rows),
        "depth": depth_over_tasks(rows, iterations),
    }
    new = (owner == number).nonzero().flatten()
    if data.shape is not None and len(new):
        W_in = W[new][:, network.layout.inputs]
        channels, H, width = data.shape
        title = f"{name}: what the new neurons read of the image"
        figures["receptive_fields"] = receptive_fields(W_in, (H, width), channels=channels, title=title)
    for kind, figure in figures.items():
        writer.figure(kind, render(figure), name)
    _write_histogram(writer, name, W[(owner == number) | (owner == PORT)])
    _write_connectome_page(writer, name, accumulation)
    if animation is not None:
        level_of = dict(zip(claim.members.tolist(), levels.tolist(), strict=True))
        layout, last = accumulation.layout, snapshot(W, claim.members, "pruned", len(new))
        gif = animation.gif(name, last, layout.positions, layout.inputs, level_of)
        writer.figure("evolution", {"gif": gif}, name)


def _write_histogram(writer: RunWriter, name: str, W: Tensor) -> None:
    """The weights that task `name` has added, in its rows W (n_k, n)."""
    weights = W[W != 0].cpu().clamp(-WIDEST, WIDEST)
    counts, edges = np.histogram(weights, np.linspace(-WIDEST, WIDEST, 61))
    step = tables.task_indices(writer.events)[name]
    writer.event("histogram", name="new_weights", task=name, step=step, edges=edges, counts=counts)


def _write_connectome_page(writer: RunWriter, name: str, accumulation: Accumulation) -> None:
    """The page of all tasks so far; none where a structure.npz that it is drawn from has been removed."""
    try:
        structures = {claim.name: load_structure(writer.folder, claim.name) for claim in accumulation.claims}
    except RunFolderError:
        return
    page = connectome_page(assemble_connectome(structures), title=f"connectome after {name}")
    writer.page("connectome", page, name)
