"""Make the pictures of docs/gallery.md from finished runs: TensorBoard and the report in headless Chromium.

    PYTHONPATH=.:tests python scripts/gallery.py RUN RUN RUN [--to docs/gallery] [--only report]

The report and the figures are those of the first run, and TensorBoard shows all of them. Nothing is written into the
runs. Needs Debian's chromium and chromium-driver, and selenium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from pathlib import Path

from browser import chromium, drag, everywhere, tensorboard, until
from PIL import Image

from nesa.reports.run_report import report
from nesa.run_folder.events import read_events
from nesa.run_folder.layout import task_folder
from nesa.run_folder.tensorboard import TensorBoardWriter

SIZE = 300_000
TENSORBOARD_PAGES = {  # the address, and an element that is there once the page is complete
    "scalars": ("timeseries&tagFilter=accumulation&smoothing=0", "scalar-card tb-data-table-content-row"),
    "custom": ("custom_scalars&_smoothingWeight=0", "tf-custom-scalar-multi-line-chart-card"),
    "images": ("images&tagFilter=figures%2F(connectome|weights)", "img"),
    "hparams": ("hparams", "vaadin-grid-cell-content"),
    "histograms": ("histograms", "vz-histogram-timeseries"),
}


def save(path: Path, png: bytes) -> None:
    """Save a picture with as many colours as fit into SIZE."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        image.quantize(colours).save(file, "png", optimize=True)
        if file.tell() < SIZE:
            break
    path.write_bytes(file.getvalue())
    print(f"{path}: {file.tell():,} bytes, {image.width} x {image.height}", flush=True)


def tensorboard_pages(runs: list[Path], to: Path, only: str) -> None:
    """Save pages of TensorBoard with all runs in it."""
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:  # rebuilt from the events, so that runs of earlier versions look as those of this one
            copy = Path(folder) / run.name
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.pt", "*.npz", "*.svg", "tensorboard"))
            TensorBoardWriter.rebuilt(copy, (run / "curriculum.yaml").read_text(), read_events(run)).close()
        with tensorboard(Path(folder)) as address:
            for name, (page, element) in TENSORBOARD_PAGES.items():
                if only in ("", name):
                    tensorboard_page(f"{address}#{page}", element, to / f"tensorboard-{name}.png")


def tensorboard_page(address: str, element: str, path: Path) -> None:
    """Save one page of TensorBoard."""
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as driver:
        driver.get(address)
        until(lambda: everywhere(driver, element), f"{element} is on the page")
        time.sleep(15)
        save(path, driver.get_screenshot_as_png())


def report_pages(run: Path, to: Path) -> None:
    """Save the report and the connectome of a run."""
    with tempfile.TemporaryDirectory() as folder:
        _, page = report(run, folder)
        with chromium(Path(folder) / "profile", offline=True) as driver:
            driver.get(page.as_uri())
            save(to / "report.png", driver.get_screenshot_as_png())
        with chromium(Path(folder) / "profile2", offline=True) as driver:
            driver.get((Path(folder) / "report" / "connectome.html").as_uri())
            canvas = driver.find_element("tag name", "canvas")
            drag(driver, canvas, 40, 10)
            until(lambda: driver.execute_script("return !running"), "the connectome is drawn")
            save(to / "connectome.png", driver.get_screenshot_as_png())


def figures(run: Path, to: Path) -> None:
    """Copy figures of the last task, and three frames of its animation."""
    tasks = [event["task"] for event in read_events(run) if event["event"] == "task_claimed"]
    folder = task_folder(run, tasks[-1])
    for name in ("weights", "activities", "neurons_by_level", "receptive_fields"):
        save(to / f"{name}.png", (folder / f"{name}.png").read_bytes())
    with Image.open(folder / "evolution.gif") as animation:
        count = getattr(animation, "n_frames", 1)
        strip = Image.new("RGB", (animation.width, 3 * animation.height))
        for row, frame in enumerate((0, count // 2, count - 1)):
            animation.seek(frame)
            strip.paste(animation.convert("RGB"), (0, row * animation.height))
    file = io.BytesIO()
    strip.save(file, "png")
    save(to / "evolution.png", file.getvalue())


def main() -> None:
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--to", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--only", default="", help="figures, report, or one of " + ", ".join(TENSORBOARD_PAGES))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    if args.only in ("", "figures"):
        figures(args.runs[0], args.to)
    if args.only in ("", "report"):
        report_pages(args.runs[0], args.to)
    if args.only not in ("report", "figures"):
        tensorboard_pages(args.runs, args.to, args.only)


if __name__ == "__main__":
    main()
