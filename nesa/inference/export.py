"""Export one task of a stored run with torch.export or to ONNX, as a file that does not need this project.

The file contains the module of `urn.extract` (small dense layers) after the task's own normalisation: raw samples in
(images with values 0 to 255), logits of the task's classes out. The batch size is dynamic.

    program = torch.export.load("shapes.pt2")        # torch alone
    logits = program.module()(images)                # (B, C, H, W) or (B, D) float32 -> (B, D_out)

Before anything is written, the exported logits are compared with those that the run has stored with the task.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from nesa.errors import RunFailed, UserError
from nesa.files import write_atomically
from nesa.inference.saved_run import SavedTask, load
from nesa.run_folder.reader import read_probe
from urn.mlp_conversion import extract

SUFFIXES = {".pt2": "torch.export", ".onnx": "ONNX"}
EXTRA = ("onnx", "onnxscript")  # required by torch's exporter to ONNX
TOLERANCE = 1e-5  # of the largest logit: other sums of the same terms


class Exported(nn.Module):
    """A task's network as plain layers. x: (B, C, H, W), or (B, D_in) for vectors, float32 and not normalised."""

    def __init__(self, task: SavedTask):
        super().__init__()
        self.mean, self.std = task.mean, task.std
        self.layers = extract(task.network, task.name)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x.flatten(1) - self.mean) / self.std)


def export(folder: str | Path, task: str, to: Path) -> str:
    """Write the task's network to `to` (.pt2 or .onnx), and return a sentence about its inputs and outputs.

    Raises UserError for another suffix, an unknown task and missing packages, RunFolderError for a damaged run, and
    RunFailed when the exported logits are not the run's, to TOLERANCE."""
    to = Path(to)
    kind = SUFFIXES.get(to.suffix)
    if kind is None:
        raise UserError(f"--to {to}: the name must end in {' or '.join(SUFFIXES)}, which says what to write")
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None] if kind == "ONNX" else []
    if missing:
        raise UserError(f"--to {to}: ONNX needs {', '.join(missing)}: pip install 'nesa[onnx]', or write a .pt2 file")
    run = load(folder)
    source = run.task(task)
    probe = read_probe(folder, run.checkpoint_of(task))
    x = probe["x"].float().reshape(-1, *source.shape)
    module = Exported(source).eval()
    _check_logits(module(x), probe["logits"], task)
    names = {"classes": list(source.classes), "mean": source.mean, "std": source.std, "run": Path(folder).name}
    content = (_onnx if kind == "ONNX" else _program)(module, x, names, probe["logits"], task)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(to, content)
    shape = ", ".join(map(str, source.shape))
    return f"{to}: {kind}, float32 (B, {shape}) raw samples in, (B, {len(source.classes)}) logits out"


def _program(
    module: Exported, x: Tensor, names: dict[str, Any], logits: Tensor, task: str
) -> Callable[[IO[bytes]], object]:
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("B")},))
    _check_logits(program.module()(x), logits, task)
    extra = {key: str(value) for key, value in names.items()}
    return lambda file: torch.export.save(program, file, extra_files=extra)  # type: ignore[arg-type]


def _onnx(
    module: Exported, x: Tensor, names: dict[str, Any], logits: Tensor, task: str
) -> Callable[[IO[bytes]], object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter uses deprecated parts of torch
        program = torch.onnx.export(
            module, (x,), input_names=["x"], output_names=["logits"], dynamic_shapes=({0: "B"},), dynamo=True,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for key, value in names.items():
        proto.metadata_props.add(key=key, value=str(value))
    return lambda file: file.write(proto.SerializeToString())


def _check_logits(found: Tensor, wanted: Tensor, task: str) -> None:
    worst = float((found - wanted).abs().max())
    if not worst <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise RunFailed(
            f"task {task!r}: the exported network's logits differ from the run's by {worst:.2g}, not written"
        )
