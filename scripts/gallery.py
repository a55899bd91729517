"""The pictures of docs/gallery.md, from finished runs: pages of TensorBoard and the report in headless Chromium.

    PYTHONPATH=.:tests python scripts/gallery.py RUN RUN RUN [--to docs/gallery] [--only report]

The first run is looked at closely, and all are laid over one another in TensorBoard. Nothing is written into
the runs. Wants Debian's chromium and chromium-driver, and selenium.
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
BOARD = {  # a page of TensorBoard, and what must be there before it is complete
    "scalars": ("timeseries&tagFilter=accumulation&smoothing=0", "scalar-card tb-data-table-content-row"),
    "custom": ("custom_scalars&_smoothingWeight=0", "tf-custom-scalar-multi-line-chart-card"),
    "images": ("images&tagFilter=figures%2F(connectome|weights)", "img"),
    "hparams": ("hparams", "vaadin-grid-cell-content"),
    "histograms": ("histograms", "vz-histogram-timeseries"),
}


def save(path: Path, png: bytes) -> None:
    """As few colours as make it small enough."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        image.quantize(colours).save(file, "png", optimize=True)
        if file.tell() < SIZE:
            break
    path.write_bytes(file.getvalue())
    print(f"{path}: {file.tell():,} bytes, {image.width} x {image.height}", flush=True)


def board_pages(runs: list[Path], to: Path, only: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:  # views are made anew from the events: runs of earlier versions show what this one shows
            copy = Path(folder) / run.name
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.pt", "*.npz", "*.svg", "tensorboard"))
            TensorBoardWriter.rebuilt(copy, (run / "curriculum.yaml").read_text(), read_events(run)).close()
        with tensorboard(Path(folder)) as address:
            for name, (page, sign) in BOARD.items():
                if only in ("", name):
                    board_page(f"{address}#{page}", sign, to / f"tensorboard-{name}.png")


def board_page(address: str, sign: str, path: Path) -> None:
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as driver:
        driver.get(address)
        until(lambda: everywhere(driver, sign), f"{sign} is on the page")
        time.sleep(15)
        save(path, driver.get_screenshot_as_png())


def report_pages(run: Path, to: Path) -> None:
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
    """Pictures that the run drew of its last task, and three moments of the animation."""
    tasks = [event["task"] for event in read_events(run) if event["event"] == "task_claimed"]
    folder = task_folder(run, tasks[-1])
    for name in ("weights", "activities", "neurons_by_level", "receptive_fields"):
        save(to / f"{name}.png", (folder / f"{name}.png").read_bytes())
    with Image.open(folder / "evolution.gif") as film:
        count = getattr(film, "n_frames", 1)
        strip = Image.new("RGB", (film.width, 3 * film.height))
        for row, frame in enumerate((0, count // 2, count - 1)):
            film.seek(frame)
            strip.paste(film.convert("RGB"), (0, row * film.height))
    file = io.BytesIO()
    strip.save(file, "png")
    save(to / "evolution.png", file.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--to", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--only", default="", help="figures, report, or one of " + ", ".join(BOARD))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    if args.only in ("", "figures"):
        figures(args.runs[0], args.to)
    if args.only in ("", "report"):
        report_pages(args.runs[0], args.to)
    if args.only not in ("report", "figures"):
        board_pages(args.runs, args.to, args.only)


if __name__ == "__main__":
    main()
