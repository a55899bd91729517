"""What people see: the report and the connectome of a real run, in Debian's Chromium."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import small_run
from browser import PATIENCE, chromium, drag, missing

from nesa.report import report
from nesa.run import run

pytestmark = pytest.mark.skipif(missing() != "", reason=f"a browser is needed, and is not here: {missing()}")
TASKS = ("five", "six")
SEEDS = (1,)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    data = small_run.write_data(folder / "data")
    for seed in SEEDS:
        run(small_run.curriculum(folder, seed=seed, tasks=TASKS), out=folder / "runs", name=f"seed{seed}", data=data)
    return folder / "runs"


def until(condition, what: str):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"after {PATIENCE} s there is still nothing where {what}"
        time.sleep(0.5)
    return found


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
