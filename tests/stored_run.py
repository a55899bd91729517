"""A run folder written by hand: curriculum, environment, events and structures that nothing was trained for."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nesa.run_folder.tables import ACCUMULATION


def curriculum(tasks, seed: int = 0, **changes: Any) -> dict[str, Any]:
    whole = {
        "name": "small",
        "seed": seed,
        "input": {"size": [4, 4], "channels": 1},
        "network": {"grid": [4, 4, 3], "iterations": 3},
        "penalties": {"weight": 0.1},
        "tasks": [{"name": task, "source": f"{task}-source"} for task in tasks],
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        whole[section] = value if not name else whole[section] | {name: value}
    return whole


def write(
    folder: Path,
    tasks=("easy", "hard"),
    seed: int = 0,
    *,
    values: dict[str, dict[str, Any]] | None = None,
    fallback: dict[str, str] | None = None,
    digests: list[str] | None = None,
    claims: bool = True,
    structures: bool = True,
    done: int | None = None,
    environment: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """FOLDER as a run of `tasks`, of which `done` are finished. values: task -> columns of its row."""
    values, fallback, done = values or {}, fallback or {}, len(tasks) if done is None else done
    folder.mkdir(parents=True)
    text = yaml.safe_dump(curriculum(tasks, seed, **changes), sort_keys=False)
    facts = {"commit": "0123456789abcdef", "changed": False, "device": "cpu", "versions": {"torch": "2"}}
    (folder / "curriculum.yaml").write_text(text)
    (folder / "environment.json").write_text(json.dumps(facts | (environment or {})))
    start = {"name": "small", "seed": seed, "tasks": list(tasks), "learner": "neural_pruning", "curriculum": text}
    start |= {"fallbacks": [f"{task}={used}" for task, used in fallback.items()]}
    start |= {"data": digests or [f"{task} {seed}" for task in tasks]}
    events: list[dict[str, Any]] = [{"event": "run_started", **start}]
    for index, task in enumerate(tasks[:done]):
        rng = random.Random(f"{folder.name} {task}")
        used = {"source_used": fallback.get(task, f"{task}-source"), "fallback": task in fallback}
        events.append({"event": "task_started", "task": task, "index": index, **used})
        for epoch in range(3):
            scores = {"val_accuracy": 0.5 + 0.1 * epoch, "live_neurons": 30 - epoch}
            events.append({"event": "epoch", "task": task, "epoch": epoch, "step": epoch, **scores})
        row = {key: rng.random() for key in ACCUMULATION}
        row |= {"task": task, "index": index, "source": used["source_used"], "fallback": used["fallback"]}
        row |= {"classes": 5, "neurons_claimed": rng.randrange(100), "neurons_total": 40, "neurons_free": 60}
        row |= {"levels_claimed": [rng.randrange(9) for _ in range(3)], "levels_reused": [0, index, 0]}
        row |= {"depth_readout": 3, "depth_graph": 2, "accuracy_cut": rng.random() if index else None}
        row |= values.get(task, {})
        if claims:
            events.append({"event": "task_claimed", **row})
        for earlier in tasks[: index + 1]:
            score = values.get(earlier, {}).get("accuracy_test", random.Random(f"{folder.name} {earlier}").random())
            events.append({"event": "evaluated", "after": task, "task": earlier, "accuracy": score})
        if structures:
            place = folder / "tasks" / task
            place.mkdir(parents=True)
            np.savez_compressed(place / "structure.npz", **structure(rng.randrange(1000)))
    if done == len(tasks):
        events.append({"event": "run_finished", "acc": 0.5, "bwt": 0.0, "forgetting": 0.0, "seconds": 7.5})
    lines = [json.dumps({"event": event.pop("event"), "time": 1.0, **event}) for event in events]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def structure(seed: int, n: int = 8, d_in: int = 16) -> dict[str, np.ndarray]:
    """d_in inputs, n hidden neurons, half of which read the input and half the other half, and two outputs."""
    rng = np.random.default_rng(seed)
    m, half = d_in + n + 2, n // 2
    owner = np.array([-2] * d_in + [0] * n + [-3] * 2, dtype=np.int16)
    levels = np.array([0] * d_in + [1] * half + [2] * (n - half) + [3] * 2)
    W = np.zeros((m, m), dtype=np.float32)
    W[d_in : d_in + half, :d_in] = rng.standard_normal((half, d_in)) * (rng.random((half, d_in)) < 0.5)
    W[d_in + half : d_in + n, d_in : d_in + half] = rng.standard_normal((n - half, half))
    W[d_in + n :, d_in + half : d_in + n] = rng.standard_normal((2, n - half))
    return {"owner": owner, "levels": levels, "W": W}
