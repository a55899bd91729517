"""Train on several processes that torchrun has started, and check that all have the same network.

    torchrun --standalone --nproc-per-node 2 -m nesa run CURRICULUM.yaml [--device cuda]

While a task trains, each rank has its own rows of W (`urn.row_partition`). For pruning the rows are gathered, and every
rank repeats all that follows, to the same bits: `check_agreement` compares them after each claim. Only the first rank
writes the run folder; the others write into a temporary one.
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

TIMEOUT = datetime.timedelta(hours=6)  # the others wait while the first rank draws


@dataclass(frozen=True)
class Rank:
    """device: what this rank computes on. out: the folder of its runs. stream: where it shows progress. None means the
    user's folder and stderr."""

    device: str
    out: Path | None = None
    stream: TextIO | None = None


@contextlib.contextmanager
def process_group(device: str) -> Iterator[Rank]:
    """Join the process group that torchrun's environment describes; without torchrun there is one rank.

    device: cpu or cuda; each rank uses the GPU of its local rank. Raises UserError for cuda:N under torchrun."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Rank(device)
        return
    if ":" in device:
        raise UserError(f"--device {device}: under torchrun each process has a GPU of its own; use --device cuda")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        if torch.cuda.is_available():
            torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    try:
        if dist.get_rank() == 0:
            yield Rank(device)
        else:
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                sink = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(contextlib.redirect_stdout(sink))
                yield Rank(device, folder, sink)
    finally:
        dist.destroy_process_group()


def require_single_process(command: str) -> None:
    """Raise UserError where torchrun has started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"nesa {command} works on one process; start it without torchrun")


def world() -> int:
    """Return the number of ranks of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_agreement(task: str, state: str) -> None:
    """Raise RunFailed on every rank unless all have the same digest `state`."""
    found: list[str] = [""] * world()
    if len(found) > 1:
        dist.all_gather_object(found, state)
    if len(found) > 1 and len(set(found)) > 1:
        raise RunFailed(
            f"task {task!r}: the processes have arrived at different networks, so it is not recorded. They must run "
            "on the same kind of device; train on one process otherwise."
        )
