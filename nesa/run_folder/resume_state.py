"""Check that a stored run can be resumed with the same curriculum and data, and find its last intact checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nesa.config.diff import differences
from nesa.errors import RunFolderError
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.digest import digest, event_digest
from nesa.run_folder.environment import environment, read_environment
from nesa.run_folder.events import STARTS, Event, start_event
from nesa.run_folder.layout import ANIMATION, CURRICULUM, EARLIER, TRAINING, TRAINING_FORMAT, task_folder
from nesa.run_folder.reader import read_state

SHOWN = 10  # differences that a message lists


def check_curriculum(folder: Path, events: Sequence[Event]) -> None:
    """Raise RunFolderError, with the difference, when curriculum.yaml has changed since the run began or was extended.

    Comments and layout may change."""
    start = start_event(events)
    if start is None:
        return
    text = (folder / CURRICULUM).read_text("utf-8")
    if text == start["curriculum"]:
        return
    found = differences(yaml.safe_load(start["curriculum"]), yaml.safe_load(text))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise RunFolderError(
            f"{folder / CURRICULUM}: was changed after the run began: {'; '.join([*found[:SHOWN], *more])}. "
            "Put it back to go on, or begin a new run with `nesa run`"
        )


def half_extended(folder: Path, events: Sequence[Event]) -> str | None:
    """Return the text that curriculum.yaml should have when a crash came between the event `extended` and the file."""
    texts = [event["curriculum"] for event in events if event["event"] in STARTS]
    if len(texts) < 2:
        return None
    *_, before, now = map(yaml.safe_load, texts)
    found = yaml.safe_load((folder / CURRICULUM).read_text("utf-8"))
    return texts[-1] if found == before != now else None


def check_data(folder: Path, events: Sequence[Event], fallbacks: Sequence[str], digests: Sequence[str]) -> None:
    """Raise RunFolderError when the data here are not those that the run began with.

    fallbacks: TASK=SOURCE for each fallback in use. digests: of each task's data (nesa.training.task_data)."""
    start = start_event(events)
    if start is None:
        return
    if list(fallbacks) != start["fallbacks"]:
        raise RunFolderError(
            f"{folder}: this run used {', '.join(start['fallbacks']) or 'no fallback'}, but now the data would "
            f"give {', '.join(fallbacks) or 'no fallback'}; point --data or NESA_DATA to the data that it began with"
        )
    triples = zip(start["tasks"], start["data"], digests, strict=True)
    other = [name for name, before, now in triples if before != now]
    if other:
        raise RunFolderError(
            f"{folder}: the data of {', '.join(other)} are not those that this run began with"
            f"{''.join(f' ({change})' for change in changes(folder))}; "
            "point --data or NESA_DATA to the same data, read by the same versions"
        )


def changes(folder: Path, device: str | None = None) -> list[str]:
    """Describe what differs from environment.json: versions, threads, and the device when it is given."""
    before, now = read_environment(folder), environment(0, device or "cpu")
    pairs = [(name, before.get("versions", {}).get(name), version) for name, version in now["versions"].items()]
    pairs += [(key, before.get(key), now[key]) for key in ("python", "threads", *(("device",) if device else ()))]
    return [f"{name} is {new or 'missing'}, was {old or 'missing'}" for name, old, new in pairs if old != new]


def last_state(folder: Path, events: Sequence[Event]) -> tuple[int, dict[str, Any] | None, list[str]]:
    """Find the last intact checkpoint: the number of events up to it, its state, and a note for each damaged one.

    (0, None, notes) when there is none. `run_finished` and `extended` right after it count as its events."""
    notes: list[str] = []
    for at in reversed(range(len(events))):
        if events[at]["event"] != "checkpointed":
            continue
        try:
            state = read_state(folder, events[at])
        except RunFolderError as error:
            notes.append(f"{error}; going back to the checkpoint before it")
            continue
        count = at + 1
        for later in range(at + 1, len(events)):
            if events[later]["event"] in ("run_finished", "extended"):
                count = later + 1
            elif events[later]["event"] == "task_started":
                break
        return count, state, notes
    return 0, None, notes


def last_step(folder: Path, events: Sequence[Event], after: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Find the last state inside a partly trained task, and a note for each damaged file that was passed over.

    Its events[: state["count"]] must be unchanged. after: number of events of finished tasks. `"film"` in the state:
    the arguments of nesa.figures.animation.Animation, or None."""
    started = [event["task"] for event in events[after:] if event["event"] == "task_started"]
    notes: list[str] = []
    for name in (TRAINING, EARLIER):
        if len(started) != 1 or not (task_folder(folder, started[0]) / name).exists():
            continue
        try:
            state = _read_partial(folder, started[0], name)
        except RunFolderError as error:
            notes.append(f"{error}; going back to what was kept before it")
            continue
        if after < state["count"] <= len(events) and event_digest(events[: state["count"]]) == state["events"]:
            if (seen := state["film"]) is not None:
                state["film"] = {"seen": seen}
                try:
                    state["film"]["state"] = _read_partial(folder, started[0], ANIMATION)
                except RunFolderError as error:
                    notes.append(f"{error}; the animation begins where it goes on")
            return state, notes
    return None, notes  # nothing was saved, or by an earlier attempt: the task begins again


def _read_partial(folder: Path, task: str, name: str) -> dict[str, Any]:
    state = load_checkpoint(folder, task, name)
    stored = state.pop("digest", None) if isinstance(state, dict) else None
    try:
        intact = stored is not None and stored == digest(state) and state["format"] == TRAINING_FORMAT
    except TypeError:
        intact = False
    if not intact:
        raise RunFolderError(f"{task_folder(folder, task) / name}: is not what the run wrote")
    return state
