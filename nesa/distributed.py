"""A run on several processes, as torchrun starts them: who this one is, and that all have the same.

    torchrun --standalone --nproc-per-node 2 -m nesa run CURRICULUM.yaml [--device cuda]

While a task trains, each rank has its own rows of the worker's W (`urn.row_partition`). For settling they are put together
again, and everything after that every rank does for itself, to the same bits: `agree` holds them to it after each
claim. Only the first rank's record is a run; the others write theirs into a folder that is thrown away.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist

from nesa.errors import RunFailed, UserError

PATIENCE = datetime.timedelta(hours=6)  # a rank that writes figures keeps the others waiting


@dataclass(frozen=True)
class Rank:
    """device: what this rank computes on. out: the folder that holds its runs, stream: where it tells people how far
    it is; None means the user's and stderr."""

    device: str
    out: Path | None = None
    stream: TextIO | None = None


@contextlib.contextmanager
def joined(device: str) -> Iterator[Rank]:
    """Inside, the ranks that torchrun's environment names know one another; without torchrun there is one.

    device: cpu or cuda; each rank takes the GPU of its number on its machine. Raises UserError for cuda:N."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Rank(device)
        return
    if ":" in device:
        raise UserError(f"--device {device}: under torchrun each process has a GPU of its own; use --device cuda")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        if torch.cuda.is_available():
            torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        if dist.get_rank() == 0:
            yield Rank(device)
        else:
            with contextlib.ExitStack() as stack:
                aside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                nowhere = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                yield Rank(device, aside, nowhere)
    finally:
        dist.destroy_process_group()


def alone(command: str) -> None:
    """Raises UserError where torchrun has started this as one of several."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"nesa {command} works on one process; start it without torchrun")


def world() -> int:
    """How many ranks share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def agree(task: str, state: str) -> None:
    """Raises RunFailed on every rank where they do not all have the same digest `state`."""
    found: list[str] = [""] * world()
    if len(found) > 1:
        dist.all_gather_object(found, state)
    if len(found) > 1 and len(set(found)) > 1:
        raise RunFailed(
            f"task {task!r}: the processes have settled on different networks, so it is not recorded. They must run "
            "on the same kind of device; train on one process otherwise."
        )
