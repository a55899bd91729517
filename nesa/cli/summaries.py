"""Print what a curriculum contains and what came of a run, and write the files that a user named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nesa.errors import RunFailed, UserError

if TYPE_CHECKING:
    from nesa.config.curriculum import Curriculum


def curriculum_summary(curriculum: Curriculum) -> str:
    """Summarise a curriculum in one line: tasks, size of the network, iterations, learner."""
    network = curriculum.network
    if network.grid is not None:
        neurons = f"grid {' x '.join(map(str, network.grid))}"
    elif network.layers is not None:
        neurons = f"layers of {', '.join(map(str, network.layers))}"
    else:
        neurons = f"{network.neurons:,} neurons"
    names = ", ".join(task.name for task in curriculum.tasks)
    tasks = f"{len(curriculum.tasks)} task{'' if len(curriculum.tasks) == 1 else 's'} ({names})"
    return f"fine. {tasks}, {neurons}, I = {network.iterations}, learner {curriculum.learner.name}"


def curriculum_notes(curriculum: Curriculum) -> list[str]:
    """List what `nesa check` cannot check: functions of the user, and fallbacks."""
    from nesa.datasets import registry

    notes = []
    for task in curriculum.tasks:
        notes += [
            f"task {task.name} calls your own function {source}, which `run` imports and `check` has not"
            for source in (task.source, task.fallback)
            if (found := registry.get(source)) is not None and found.user_code
        ]
        if task.fallback is not None:
            notes.append(f"task {task.name} falls back to {task.fallback}, loudly, where {task.source} cannot be had")
    return notes


def print_result(folders: Sequence[Path]) -> None:
    """Print the result of a run, or of several seeds of one curriculum, and commands that show more."""
    from nesa.analysis.comparison import summarize
    from nesa.reports import comparison_report

    print(comparison_report.summary(summarize(folders)))
    print("\n".join(f"run: {folder}" for folder in folders))
    shown = f"--logdir {folders[0]}" if len(folders) == 1 else f"--logdir {folders[0].parent}"
    print(f"see: tensorboard {shown} --samples_per_plugin images=100")
    runs = " ".join(map(str, folders))
    print(f"     nesa report {runs}" if len(folders) == 1 else f"     nesa compare {runs}")


def write_file(path: Path, text: str) -> None:
    """Write a file that the user named on the command line, and print where it is."""
    from nesa.files import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except (OSError, RunFailed) as error:
        reason = error.__cause__ or error
        raise UserError(f"{path}: cannot be written ({getattr(reason, 'strerror', reason)})") from None
    print(f"wrote {path}")
