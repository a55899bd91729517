"""Write the events of a run as TensorBoard scalars, text, histograms and images.

Every tag comes from an event, so the event file can be rebuilt at any time.

| event | tags | step |
|---|---|---|
| run_started | custom scalars layout, hyper-parameters, the curriculum as text (as it is by now) | |
| epoch | ``train/TASK/X``, X one of TRAIN | optimiser step |
| task_claimed | ``accumulation/*``, ``accumulation/level_L``; the table as text | index of the task |
| evaluated | ``accuracy/TASK``; R as text when its row is complete | index of the task just trained |
| histogram | ``histograms/NAME`` | index of the task |
| figure | ``figures/NAME``, animations too | index of the task, or as given |

TensorBoard's own event writer is used: neither torch nor TensorFlow is imported. Hyper-parameters go into the same file
as everything else, so no sub-run appears. There is no experiment summary, because TensorBoard applies the first one
that it finds to all runs and would hide the hyper-parameters that only others have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nesa.run_folder import tables
from nesa.run_folder.events import finish_event
from nesa.run_folder.layout import TENSORBOARD

TRAIN = {
    "loss": "loss",
    "accuracy": "train_accuracy",
    "penalty_weight": "penalty_weight",
    "penalty_activity": "penalty_activity",
    "live_neurons": "live_neurons",
    "live_synapses": "live_synapses",
}
ACCUMULATION = (
    "depth_readout",
    "depth_mean",
    "depth_graph",
    "neurons_claimed",
    "neurons_free",
    "neurons_reused",
    "reuse_share",
)
# One page of charts: depth, number of neurons, share of reused neurons, accuracy.
LAYOUT = {
    "Accumulated structure": {
        "depth": [r"accumulation/depth_readout", r"accumulation/depth_mean", r"accumulation/depth_graph"],
        "neurons": [r"accumulation/neurons_claimed", r"accumulation/neurons_reused", r"accumulation/neurons_free"],
        "new neurons by level": [r"accumulation/level_.*"],
        "reuse": [r"accumulation/reuse_share"],
        "accuracy": [r"accuracy/.*"],
    }
}


class TensorBoardWriter:
    """Writes the event file of one run folder.

    ``folder`` is the run folder, ``curriculum`` the text of its curriculum.yaml.
    """

    def __init__(self, folder: Path, curriculum: str):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = folder
        self._curriculum = curriculum
        self._events: list[Mapping[str, Any]] = []
        self._writer = EventFileWriter(str(folder / TENSORBOARD))

    @classmethod
    def rebuilt(cls, folder: Path, curriculum: str, events: Sequence[Mapping[str, Any]]) -> TensorBoardWriter:
        """Write a new event file with ``events`` in place of the present ones.

        Of the figures that share a file only the last is shown: the file has no other. A run that was finished and then
        extended is not finished any more.
        """
        for old in (folder / TENSORBOARD).glob("events.out.tfevents.*"):
            old.unlink()
        writer = cls(folder, curriculum)
        last = {event["file"]: at for at, event in enumerate(events) if event["event"] == "figure"}
        ended = finish_event(events)
        for at, event in enumerate(events):
            figure, end = event["event"] == "figure", event["event"] == "run_finished"
            if (not figure or last[event["file"]] == at) and (not end or event is ended):
                writer._show(event)
        writer.flush()
        return writer

    def add(self, event: Mapping[str, Any]) -> None:
        """Write one event and flush."""
        self._show(event)
        self.flush()

    def flush(self) -> None:
        """Write what is buffered to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _show(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        time = float(event["time"])
        first = not self._events
        if kind in ("run_started", "extended", "task_started", "task_claimed", "evaluated"):
            self._events.append(event)
        if kind == "run_started" and first:  # TensorBoard reads one layout and one session a run
            self._write([_layout(), _text("curriculum", f"```yaml\n{self._curriculum}\n```")], 0, time)
            self._write([_session_start(self._folder.name, hyper_parameters(self._curriculum), time)], 0, time)
        elif kind == "epoch":
            scalars = {f"train/{event['task']}/{tag}": event.get(key) for tag, key in TRAIN.items()}
            self._write(_scalars(scalars), event["step"], time)
        elif kind == "task_claimed":
            scalars = {f"accumulation/{key}": event.get(key) for key in ACCUMULATION}
            levels = event.get("levels_claimed") or ()
            scalars.update({f"accumulation/level_{level}": count for level, count in enumerate(levels, start=1)})
            table = tables.accumulation_markdown(tables.accumulation(self._events))
            self._write([*_scalars(scalars), _text("tables/accumulation", table)], event["index"], time)
        elif kind == "evaluated":
            step = tables.task_indices(self._events)[event["after"]]
            self._write(_scalars({f"accuracy/{event['task']}": event["accuracy"]}), step, time)
            names, R = tables.accuracy(self._events)
            row = names.index(event["after"])
            if not any(R[row, : row + 1] != R[row, : row + 1]):  # no NaN: the row of task `after` is complete
                self._write([_text("tables/accuracy", tables.accuracy_markdown(names, R))], step, time)
        elif kind == "histogram":
            self._write(
                [_histogram(f"histograms/{event['name']}", event["edges"], event["counts"])], event["step"], time
            )
        elif kind == "figure":
            path = self._folder / event["file"]
            if path.is_file():  # a figure that was deleted is not an error
                self._write([_image(f"figures/{event['name']}", path.read_bytes())], event["step"], time)
        elif kind == "run_finished":
            self._write([_session_end(time)], 0, time)

    def _write(self, values: Iterable[Any], step: int, time: float) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        summary = summary_pb2.Summary(value=list(values))  # type: ignore[attr-defined]
        if summary.value:
            self._writer.add_event(event_pb2.Event(wall_time=time, step=step, summary=summary))  # type: ignore


def hyper_parameters(curriculum: str) -> dict[str, str | bool | float]:
    """Flatten a resolved curriculum to keys with dots between levels; the tasks become one text, ``edges > shapes``."""
    tree = yaml.safe_load(curriculum)
    flat: dict[str, str | bool | float] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        elif isinstance(value, (str, bool, int, float)):
            flat[prefix] = value
        elif value is not None:
            flat[prefix] = str(value)

    if isinstance(tree, dict):
        tasks = tree.pop("tasks", None) or ()
        tree.pop("description", None)
        walk("", tree)
        flat["tasks"] = " > ".join(str(task["name"]) for task in tasks if isinstance(task, dict) and "name" in task)
    return flat


def _value(**fields: Any) -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.Summary.Value(**fields)  # type: ignore[attr-defined]


def _scalars(values: Mapping[str, float | None]) -> list[Any]:
    return [_value(tag=tag, simple_value=float(value)) for tag, value in values.items() if value is not None]


def _text(tag: str, text: str) -> Any:
    from tensorboard.plugins.text import summary_v2

    return summary_v2.text_pb(tag, text).value[0]


def _histogram(tag: str, edges: Sequence[float], counts: Sequence[int]) -> Any:
    """Make a histogram of counts (n) between edges (n + 1)."""
    from tensorboard.compat.proto import tensor_pb2
    from tensorboard.plugins.histogram import metadata

    rows = [number for row in zip(edges[:-1], edges[1:], counts, strict=True) for number in row]
    tensor = tensor_pb2.TensorProto(  # type: ignore[attr-defined]
        dtype="DT_DOUBLE", double_val=rows, tensor_shape={"dim": [{"size": len(counts)}, {"size": 3}]}
    )
    return _value(tag=tag, metadata=metadata.create_summary_metadata(tag, ""), tensor=tensor)


def _image(tag: str, content: bytes) -> Any:
    """Make an image of a PNG, or of a GIF, which TensorBoard plays; torch's add_video needs an old moviepy."""
    from tensorboard.compat.proto import summary_pb2

    gif = content.startswith(b"GIF")
    width, height = struct.unpack("<HH", content[6:10]) if gif else struct.unpack(">II", content[16:24])
    image = summary_pb2.Summary.Image(  # type: ignore[attr-defined]
        width=width, height=height, colorspace=4, encoded_image_string=content
    )
    return _value(tag=tag, image=image)


def _layout() -> Any:
    from tensorboard.compat.proto import tensor_pb2
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    layout = layout_pb2.Layout(  # type: ignore[attr-defined]
        category=[
            {"title": page, "chart": [{"title": title, "multiline": {"tag": tags}} for title, tags in charts.items()]}
            for page, charts in LAYOUT.items()
        ]
    )
    tensor = tensor_pb2.TensorProto(  # type: ignore[attr-defined]
        dtype="DT_STRING", string_val=[layout.SerializeToString()], tensor_shape={}
    )
    return _value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=metadata.create_summary_metadata(), tensor=tensor)


def _session_start(run: str, values: Mapping[str, str | bool | float], time: float) -> Any:
    from tensorboard.plugins.hparams import summary_v2

    # trial_id keeps two runs of one curriculum apart: TensorBoard would average them otherwise
    return summary_v2.hparams_pb(dict(values), trial_id=run, start_time_secs=time).value[0]


def _session_end(time: float) -> Any:
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = {"status": api_pb2.STATUS_SUCCESS, "end_time_secs": time}  # type: ignore[attr-defined]
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)  # type: ignore[attr-defined]
    return _value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
