"""W dealt out to several processes against all of it in one: losses, memory and time of a step.

    OMP_NUM_THREADS=1 PYTHONPATH=. \\
        torchrun --nproc-per-node 2 benchmarks/speed/row_partition.py [--S 2000] [--claimed 400]
        [--B 128] [--I 4] [--steps 50] [--device cpu]

Every rank trains its rows of one network for `--steps` steps; then the first one trains the same network alone, with
as many threads and while the others wait. The first `--claimed` neurons are fixed, the prox is on. Printed are the
largest difference between the two sides' losses; the bytes of W, its gradient and its moments on the fullest rank as
a share of those of one process; the median step of each side.
With --device cuda each rank takes the GPU of its number on the machine, and NCCL carries the states.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist

from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.surgery import shard

D_IN, D_OUT = 64, 10
PENALTY = Penalty("prox_decoupled", weight=0.1, activity=1e-3)


def train(args: argparse.Namespace, device: torch.device, alone: bool) -> tuple[list[float], list[float], dict]:
    """(losses, seconds of each step, bytes)"""
    generator = torch.Generator().manual_seed(0)
    layout = Layout.flat(args.S, D_IN, {"task": D_OUT})
    urn = URN(layout, args.I, "residual_both", "linear", generator=generator)
    W, frozen = urn.W.data, torch.arange(args.S) < args.claimed
    W[frozen[:, None] & ~frozen] = 0
    W[:D_IN] = 0
    urn.set_parameters(layout, W, urn.b.data, frozen)
    del W
    if not alone:
        shard(urn)
    urn.to(device)
    optimizer = Proximal(urn, "adam", 1e-3, penalty=PENALTY)
    urn.reuse_gradient_memory = True
    losses, seconds = [], []
    centres = torch.randn(D_OUT, D_IN, generator=generator)
    for _ in range(args.steps):
        y = torch.randint(D_OUT, (args.B,), generator=generator)
        x = (centres[y] + torch.randn(args.B, D_IN, generator=generator)).to(device)
        began = time.perf_counter()
        optimizer.zero_grad()
        done = urn.training_pass(x, "task", PENALTY)
        loss = torch.nn.functional.cross_entropy(done.logits, y.to(device)) + done.activity
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))  # waits for the device
        seconds.append(time.perf_counter() - began)
    moments = {k: v for k, v in optimizer.state[urn.W].items() if isinstance(v, torch.Tensor) and v.dim() == 2}
    assert urn.W.grad is not None
    held = {"W": urn.W.data, "gradient": urn.W.grad, **moments}
    return losses, seconds, {name: value.untyped_storage().nbytes() for name, value in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("S", 2000), ("claimed", 400), ("B", 128), ("I", 4), ("steps", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with torchrun, as its help shows")
    device = torch.device("cpu")
    if args.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if args.device == "cpu" else "nccl")
    world, first = dist.get_world_size(), dist.get_rank() == 0

    ours, seconds, held = train(args, device, alone=False)
    every: list[dict] = [{}] * world
    dist.all_gather_object(every, held)
    if first:
        alone, alone_seconds, whole = train(args, device, alone=True)
        apart = max(abs(a - b) for a, b in zip(ours, alone, strict=True))
        print(
            f"S {args.S} ({args.claimed} claimed), B {args.B}, I {args.I}, {world} ranks on {args.device}, "
            f"{torch.get_num_threads()} thread(s) each, torch {torch.__version__}"
        )
        print(f"losses   {alone[0]:.4f} to {alone[-1]:.4f} in {args.steps} steps; largest difference {apart:.1e}")
        for name in whole:
            most, all_ = max(part[name] for part in every), whole[name]
            print(f"{name:12} {most / 2**20:8.1f} MB a rank, {all_ / 2**20:8.1f} MB alone: {most / all_:.1%}")
        ms, alone_ms = (1e3 * statistics.median(times[1:]) for times in (seconds, alone_seconds))
        print(f"step     {ms:.1f} ms on {world} ranks, {alone_ms:.1f} ms alone: {alone_ms / ms:.2f} x faster")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
