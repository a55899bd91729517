"""One optimiser step: the paper to the letter against urn, in turns in one process, with the machine's own rates.

    PYTHONPATH=. python benchmarks/speed/step.py [--S 5000] [--B 128] [--I 4] [--live 0.05] [--rounds 7]
        [--device cpu] [--precision bfloat16]
    PYTHONPATH=. python benchmarks/speed/step.py --S 21600 --device cuda       # the paper's CIFAR-10 size; 20 GB

Prints medians, ratios, and each time as a multiple of its floor: the products that cannot be avoided at the measured
matmul rate, plus one pass over W, its gradient and its two moments (read and written) at the measured copy rate.
A time ends when the device has done what it was told.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from literal_urn import LiteralURN, literal_loss

from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.precision import PRECISIONS, multiply_in
from urn.surgery import keep_only

D_IN, D_OUT, C_W, C_N, CPU = 10, 2, 5e-7, 2e-5, torch.device("cpu")
PENALTY = Penalty("subgradient", C_W, C_N, "sum")


def median_of(run: Callable[[], object], rounds: int, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def rates(n: int, device: torch.device) -> tuple[float, float]:
    """(flop/s of a float32 product (512, n) x (n, n), byte/s of a copy, read and written)."""
    a, w = torch.randn(512, n, device=device), torch.randn(n, n, device=device)
    out, other = torch.empty_like(a), torch.empty_like(w)
    torch.mm(a, w.T, out=out)
    product = 2 * 512 * n * n / median_of(lambda: torch.mm(a, w.T, out=out), 5, device)
    other.copy_(w)
    copy = 2 * w.numel() * 4 / median_of(lambda: other.copy_(w), 5, device)
    return product, copy


def products(S: int, B: int, device: torch.device) -> dict[str, float]:
    """Seconds of a product (B, S) x (S, S) by the type of its factors; on a CPU also with W laid out beforehand as the
    library's bfloat16 kernel wants it, which a step would have to do anew: W has changed."""
    N, W = torch.randn(B, S, device=device), torch.randn(S, S, device=device)
    found = {}
    for name in ("float32", "bfloat16", "float16"):
        n, w = (part.to(getattr(torch, name)) for part in (N, W))
        found[name] = median_of(lambda n=n, w=w: n @ w.T, 9, device)
    if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        n, w = N.bfloat16(), W.bfloat16()
        packed = torch.ops.mkldnn._reorder_linear_weight(w, B)
        found["packing W"] = median_of(lambda: torch.ops.mkldnn._reorder_linear_weight(w, B), 9, device)
        multiply = torch.ops.mkldnn._linear_pointwise
        found["bfloat16, W packed"] = median_of(lambda: multiply(n, packed, None, "none", [], ""), 9, device)
    return found


def batch(B: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(B, D_IN, device=device), torch.randint(D_OUT, (B,), device=device)


def our_step(
    S: int, B: int, I: int, live: float = 1.0, device: torch.device = CPU, precision: str = "float32"
) -> Callable[[], None]:
    """One step of ours on S neurons, of which the share `live` is left."""
    layout = Layout.flat(S, D_IN, {"task": D_OUT})
    urn = URN(layout, I, "plain", "relu", generator=torch.Generator().manual_seed(0)).to(device)
    optimizer = Proximal(urn, "adam", 7e-4, penalty=PENALTY)
    urn.reuse_gradient_memory, urn.multiply = True, multiply_in(precision, device)
    if live < 1:
        keep_only(urn, torch.cat([torch.arange(int(live * (S - D_OUT))), layout.ports["task"]]), optimizer)
    x, y = batch(B, device)

    def step() -> None:
        optimizer.zero_grad()
        done = urn.training_pass(x, "task", PENALTY)
        (torch.nn.functional.cross_entropy(done.logits, y) + done.activity).backward()
        optimizer.step()

    return step


def literal_step(S: int, B: int, I: int, device: torch.device = CPU) -> Callable[[], None]:
    """One step of the literal reference."""
    model = LiteralURN(S, D_IN, D_OUT, I).to(device)
    adam, (x, y) = torch.optim.Adam(model.parameters(), lr=7e-4), batch(B, device)

    def step() -> None:
        adam.zero_grad()
        literal_loss(model, x, y, C_W, C_N).backward()
        adam.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--S", type=int, default=5000)
    parser.add_argument("--B", type=int, default=128)
    parser.add_argument("--I", type=int, default=4)
    parser.add_argument("--live", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="of our products")
    args = parser.parse_args()
    S, B, I, device = args.S, args.B, args.I, torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device that torch can use")
    reference, dense, late = (
        literal_step(S, B, I, device),
        our_step(S, B, I, 1.0, device, args.precision),
        our_step(S, B, I, args.live, device, args.precision),
    )
    for step in (reference, dense, late):
        step()
    times: dict[str, list[float]] = {"literal": [], "dense": [], "late": []}
    for _ in range(args.rounds):
        for name, step in (("literal", reference), ("dense", dense), ("late", late)):
            times[name].append(median_of(step, 1, device))
    literal, ours, small = (statistics.median(times[name]) for name in ("literal", "dense", "late"))
    product, copy = rates(S, device)
    n = S - D_OUT
    flop = 3 * 2 * B * (n * D_IN + (I - 2) * n * n + n * D_OUT)  # forward, for the states, for W
    floor = flop / product + 7 * 4 * S * S / copy
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    used = "bfloat16" if multiply_in(args.precision, device) else "float32"
    print(f"S {S}, B {B}, I {I}, {where}, torch {torch.__version__}; our products in {used}")
    print(f"machine: {product / 1e9:.0f} GFLOP/s float32 product, {copy / 1e9:.1f} GB/s copy (read + written)")
    if args.precision != "float32":
        print("products: " + ", ".join(f"{what} {t * 1e3:.1f} ms" for what, t in products(S, B, device).items()))
    print(f"literal step            {literal * 1e3:8.1f} ms")
    print(
        f"dense step              {ours * 1e3:8.1f} ms   {literal / ours:6.2f} x faster, {ours / floor:.2f} x its floor"
    )
    print(f"step at {args.live:4.0%} live        {small * 1e3:8.1f} ms   {literal / small:6.1f} x faster")


if __name__ == "__main__":
    main()
