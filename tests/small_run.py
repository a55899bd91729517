"""A real run of three small tasks with 5, 6 and 10 classes, about a second of training, for the tests of runs.

Figures are left out (they have their own tests and would take most of the time); everything else is as in any run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nesa.config.curriculum import Curriculum
from nesa.config.loader import load

CLASSES = {"five": 5, "six": 6, "ten": 10}
TEXT = """\
name: small
seed: {seed}
input: {{size: [8, 8], channels: 1}}
network: {{grid: {grid}, iterations: 3}}
penalties: {{weight: 0.3, activity: 2.0e-3}}
learner: {{margin: 0.02, heal_epochs: 1, grow: {grow}}}
training: {{lr: 5.0e-3, batch_size: 50, epochs: 2}}
tasks:
"""


def write_data(folder: Path, seed: int = 0, *, negatives: bool = False) -> Path:
    """FOLDER/NAME.npz for each task: 8 x 8 images, one noisy pattern a class, 400 to train and 120 to test. With
    `negatives` half of the images are turned into their negative, so that no linear answer exists."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, classes in CLASSES.items():
        patterns = rng.integers(0, 256, (classes, 8, 8))
        parts = {}
        for part, n in (("train", 400), ("test", 120)):
            y = np.arange(n) % classes
            x = 0.6 * patterns[y] + 0.4 * rng.integers(0, 256, (n, 8, 8))
            if negatives:
                x = np.where(rng.random(n)[:, None, None] < 0.5, 255 - x, x)
            parts |= {f"{part}_x": x.astype(np.uint8), f"{part}_y": y}
        np.savez(folder / f"{name}.npz", class_names=[f"{name}-{i}" for i in range(classes)], **parts)
    return folder


def write_curriculum(folder: Path, *, seed: int = 3, grid=(8, 8, 4), grow: bool = True, tasks=tuple(CLASSES)) -> Path:
    """FOLDER/small.yaml on the data of `write_data`, which are looked up in the data folder."""
    text = TEXT.format(seed=seed, grid=list(grid), grow=str(grow).lower())
    text += "".join(f"  - {{name: {name}, source: arrays, params: {{path: {name}.npz}}}}\n" for name in tasks)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def curriculum(folder: Path, *overrides: str, **options) -> Curriculum:
    return load(write_curriculum(folder, **options), overrides)


def train(place: Path, name: str, *overrides: str, **options) -> Path:
    """The finished run PLACE/NAME of `curriculum` with overrides as the command line has them, on the data in
    PLACE/data; writes them where there are none."""
    from nesa.experiment.run import run

    if not (place / "data").exists():
        write_data(place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nesa.experiment.task_figures.draw", lambda *_: None)
        return run(curriculum(place, *overrides, **options), out=place, name=name, data=place / "data")


def events(run: Path) -> list[dict]:
    """The events of a run without their times."""
    lines = (run / "events.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("time", "seconds")} for line in lines]


def rows(run: Path, name: str = "accumulation.csv") -> list[list[str]]:
    """A table without its column of seconds."""
    cells = [line.split(",") for line in (run / name).read_text().splitlines()]
    return [row[:-1] for row in cells] if cells[0][-1] == "seconds" else cells
