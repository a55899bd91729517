"""How soon the connectome is on the screen and how quickly it follows the mouse, in headless Chromium without a
graphics card; with --plotly (`pip install plotly`) the same synapses as plotly draws them, beside it.

    PYTHONPATH=.:tests python benchmarks/speed/connectome_page.py [--neurons 20000] [--synapses 100000] [--plotly]

Prints seconds of the clock, and of the processor for the browser with all its processes: where other work shares the
machine only the second means anything, and on an idle one the clock shows no more than that.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from browser import chromium, drag

from nesa.analysis.connectome import Connectome, Synapses
from nesa.figures.connectome import COLOURS
from nesa.figures.connectome_page import connectome_page


def network(neurons: int, synapses: int, tasks: int = 3) -> Connectome:
    """Neurons on five planes; synapses reach a few cells aside and up to one plane up or down, as trained ones do."""
    generator = np.random.default_rng(0)
    side = int((neurons / 5) ** 0.5)
    number = np.arange(5 * side * side)
    positions = np.stack([number % side, number // side % side, number // side**2], 1).astype(np.float64)
    levels = positions[:, 2].astype(np.int64)
    owner = np.where(levels == 0, -2, generator.integers(0, tasks, len(number)))
    layers = []
    for _ in range(tasks):
        sender = generator.integers(0, len(number), synapses // tasks)
        aside = generator.integers(-side // 4, side // 4 + 1, (2, len(sender)))
        x, y = ((positions[sender, axis].astype(int) + aside[axis]).clip(0, side - 1) for axis in (0, 1))
        z = (levels[sender] + generator.choice([1, 1, 1, 0, -1], len(sender))).clip(1, 4)
        weight = np.sort(np.abs(generator.normal(0, 0.1, len(sender))))[::-1].astype(np.float32)
        layers.append(Synapses(sender, z * side * side + y * side + x, weight))
    return Connectome([f"task {k}" for k in range(tasks)], positions, levels, owner, owner, True, layers)


def plotly(web: Connectome) -> str:
    """Four strengths a direction and task, each one trace of lines with gaps."""
    import plotly.graph_objects as go

    traces: list[Any] = []
    for layer in web.layers:
        rise = np.sign(web.height[layer.receiver] - web.height[layer.sender])
        for sign, colour in zip((1, 0, -1), COLOURS.values(), strict=True):
            for strength, part in enumerate(np.array_split(np.flatnonzero(rise == sign), 4)):
                points = np.full((len(part), 3, 3), np.nan, dtype=np.float32)
                points[:, 0] = web.positions[layer.sender[part]]
                points[:, 1] = web.positions[layer.receiver[part]]
                x, y, z = points.reshape(-1, 3).T
                line = {"color": colour, "width": 1}
                traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, opacity=0.8 - 0.2 * strength))
    return go.Figure(traces).to_html(include_plotlyjs=True)


def processor(pid: int) -> float:
    """Seconds that a process and all below it have used."""
    total, waiting = 0.0, [pid]
    while waiting:
        here = waiting.pop()
        try:
            fields = Path(f"/proc/{here}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for task in Path(f"/proc/{here}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return total


def measure(name: str, page: str, painted: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page)
        with chromium(Path(folder) / "profile", offline=True) as driver:
            driver.get("about:blank")
            pid = driver.service.process.pid
            began, used = time.perf_counter(), processor(pid)
            driver.get(path.as_uri())
            while not driver.execute_script(f"return {painted}"):
                time.sleep(0.02)
            clock, cpu = time.perf_counter() - began, processor(pid) - used
            times = f"{clock:.2f} s of the clock, {cpu:.2f} s of the processor"
            print(f"{name}: {len(page) / 1e6:.1f} MB, first paint {times}")
            if name == "plotly":
                return  # turning it takes minutes
            canvas = driver.find_element("tag name", "canvas")
            while not canvas.get_attribute("data-rest"):
                time.sleep(0.1)
            print(
                f"  at rest after {float(canvas.get_attribute('data-rest')) / 1000:.2f} s of the clock, "
                f"{processor(pid) - used:.2f} s of the processor: {driver.find_element('id', 'shown').text} synapses"
            )
            began, used = time.perf_counter(), processor(pid)
            drag(driver, canvas, 150, 40)
            while driver.execute_script("return stale"):
                time.sleep(0.01)
            print(
                f"  a drag, until its end is drawn: {time.perf_counter() - began:.2f} s of the clock, "
                f"{processor(pid) - used:.2f} s of the processor"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=20_000)
    parser.add_argument("--synapses", type=int, default=100_000)
    parser.add_argument("--plotly", action="store_true")
    args = parser.parse_args()
    web = network(args.neurons, args.synapses)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    measure("connectome_page", connectome_page(web), "document.querySelector('canvas')?.dataset.painted")
    if args.plotly:
        measure("plotly", plotly(web), "document.querySelector('canvas') !== null")


if __name__ == "__main__":
    main()
