"""Test TensorBoard over three real runs, the report and the connectome, in Debian's Chromium."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run
from browser import chromium, drag, everywhere, missing, tensorboard, until

from nesa.experiment.run import run
from nesa.reports.run_report import report

pytestmark = pytest.mark.skipif(missing() != "", reason=f"a browser is needed, and is not here: {missing()}")
TASKS = ("five", "six")
SEEDS = (1, 2, 3)
NAMES = [f"seed{seed}/tensorboard" for seed in SEEDS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    data = small_run.write_data(folder / "data")
    for seed in SEEDS:
        run(small_run.curriculum(folder, seed=seed, tasks=TASKS), out=folder / "runs", name=f"seed{seed}", data=data)
    return folder / "runs"


@pytest.fixture(scope="module")
def board(runs) -> Iterator[str]:
    with tensorboard(runs) as address:
        yield address


def claimed(runs: Path, key: str) -> list[float]:
    """Read a measure of the last task of each run."""
    return [
        [event[key] for event in small_run.events(runs / f"seed{seed}") if event["event"] == "task_claimed"][-1]
        for seed in SEEDS
    ]


def test_tensorboard_lays_the_runs_over_one_another(runs, board, tmp_path):
    """Each chart of the accumulation has a line for each run, and its table the numbers of the events."""
    with chromium(tmp_path / "profile") as driver:
        driver.get(f"{board}#timeseries&tagFilter=accumulation")

        def cards():
            return [card.split() for card in everywhere(driver, "scalar-card") if all(name in card for name in NAMES)]

        until(lambda: len(cards()) >= 3, "charts have a table of three runs")
        found = {card[0] + card[1]: card for card in cards()}
        for key in ("depth_graph", "depth_mean", "depth_readout"):
            card = found[f"accumulation/{key}"]
            shown = [float(card[card.index(name) + 2]) for name in NAMES]  # a run's name, smoothed, value, step
            assert shown == pytest.approx(claimed(runs, key), rel=1e-3)
        assert everywhere(driver, "runs-data-table tb-data-table-content-row") == NAMES


def test_tensorboard_has_the_custom_page_images_and_hyperparameters(runs, board, tmp_path):
    with chromium(tmp_path / "profile") as driver:
        driver.get(f"{board}#custom_scalars")

        def charts():
            return everywhere(driver, "tf-custom-scalar-multi-line-chart-card")

        until(lambda: len(charts()) == 5 and all("Matches (" in chart for chart in charts()), "five charts are drawn")
        titles = ("depth", "neurons", "new neurons by level", "reuse", "accuracy")
        assert all(chart.startswith(title) for chart, title in zip(charts(), titles, strict=True))
        assert "Accumulated structure" in " ".join(everywhere(driver, "tf-category-paginated-view"))
        assert "Matches (9)" in charts()[0]
        assert all(f"accumulation/depth_mean ({name})" in charts()[0] for name in NAMES)
        driver.get(f"{board}#images")
        driver.refresh()
        until(lambda: len(everywhere(driver, "img", "naturalWidth")) >= 9, "there are pictures")
        until(lambda: min(everywhere(driver, "img", "naturalWidth")) > 100, "all of them are shown")
        shown = " ".join(everywhere(driver, "tf-image-loader"))
        figures = ("activities", "connectome", "depth", "evolution")  # a page holds twelve
        assert all(f"figures/{name} {run}" in shown for name in figures for run in NAMES)
        kinds = []
        for source in everywhere(driver, "img", "src"):
            with urllib.request.urlopen(source) as answer:
                kinds.append((answer.headers["Content-Type"], answer.read(3)))
        assert kinds.count(("image/gif", b"GIF")) == len(SEEDS), "the animations are animations"
        driver.get(f"{board}#hparams")
        driver.refresh()

        def cells():
            return everywhere(driver, "vaadin-grid-cell-content")

        until(lambda: "seed3" in cells(), "the table has rows")
        assert sorted(text for text in cells() if text.startswith("seed") and text != "seed") == [
            "seed1",
            "seed2",
            "seed3",
        ]


def test_the_report_works_without_a_network(runs, tmp_path):
    _, page = report(runs / "seed1", tmp_path / "out")
    with chromium(tmp_path / "profile", offline=True) as driver:
        driver.get(page.as_uri())
        sizes = driver.execute_script("return [...document.images].map(image => image.naturalWidth)")
        assert len(sizes) == 5 + 5 * len(TASKS) and min(sizes) > 100, "every picture is there"
        driver.switch_to.frame(driver.find_element("tag name", "iframe"))
        canvas = driver.find_element("tag name", "canvas")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        until(lambda: canvas.get_attribute("data-rest"), "the connectome is drawn")
        assert int(driver.find_element("id", "shown").text.replace(",", "")) > 0
        before = canvas.get_attribute("data-camera")
        drag(driver, canvas, 80, 30)
        until(lambda: canvas.get_attribute("data-camera") != before, "the connectome has turned")
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_layers_of_the_connectome_can_be_switched_off(runs, tmp_path):
    with chromium(tmp_path / "profile", offline=True) as driver:
        driver.get((runs / "seed1" / "tasks" / "six" / "connectome.html").as_uri())
        canvas = driver.find_element("tag name", "canvas")

        def shown():
            until(lambda: driver.execute_script("return !running"), "the connectome is drawn")
            until(lambda: driver.find_element("id", "shown").text != "0", "synapses are counted")
            return int(driver.find_element("id", "shown").text.replace(",", ""))

        whole = shown()
        counts = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) synapses<", driver.page_source)]
        assert whole == sum(counts)
        driver.find_element("css selector", "[data-task='0']").click()
        assert until(lambda: shown() == counts[1], "only the second task's synapses are left")
        assert canvas.size["width"] > 300
