"""What people see: TensorBoard on three real runs, and the report, both in Debian's Chromium."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import small_run
from browser import PATIENCE, chromium, drag, missing

from nesa.report import report
from nesa.run import run

pytestmark = pytest.mark.skipif(missing() != "", reason=f"a browser is needed, and is not here: {missing()}")
TASKS = ("five", "six")
SEEDS = (1, 2, 3)
# Everything inside shadow roots too: TensorBoard is made of web components.
FIND = """
const found = [];
(function walk(node) {
  for (const child of node.querySelectorAll("*")) {
    if (child.matches(arguments_[0])) found.push(child);
    if (child.shadowRoot) walk(child.shadowRoot);
  }
})(document);
return found.map((node) => arguments_[1] ? node.getAttribute(arguments_[1]) : node.textContent.trim());
""".replace("arguments_", "wanted")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    data = small_run.write_data(folder / "data")
    for seed in SEEDS:
        run(small_run.curriculum(folder, seed=seed, tasks=TASKS), out=folder / "runs", name=f"seed{seed}", data=data)
    return folder / "runs"


@pytest.fixture(scope="module")
def board(runs, tmp_path_factory):
    """The address of a TensorBoard on the three runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port)]
    log = (tmp_path_factory.mktemp("log") / "log").open("w")
    server = subprocess.Popen([*command, "--load_fast=false", "--samples_per_plugin", "images=100"], stderr=log)
    address = f"http://127.0.0.1:{port}/"
    try:
        until(lambda: '"seed3' in fetch(address + "data/runs"), "TensorBoard lists the runs")
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def fetch(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def until(condition, what: str):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"after {PATIENCE} s there is still nothing where {what}"
        time.sleep(0.5)
    return found


def find(driver, selector: str, attribute: str = "") -> list[str]:
    script = f"const wanted = [...arguments];\n{FIND}"
    return driver.execute_script(script, selector, attribute)


def test_tensorboard_overlays_the_accumulation_of_three_runs(board, driver):
    driver.get(board + "#timeseries&tagFilter=accumulation%2F(depth_mean|neurons_claimed)")

    def overlaid():
        charts = driver.execute_script(
            "return [...document.querySelectorAll('scalar-card')].map("
            "card => [card.textContent, [...card.querySelectorAll('tr')].map(row => row.textContent)])"
        )
        return len(charts) >= 2 and all(sum("seed" in row for row in rows) >= 3 for _, rows in charts) and charts

    charts = until(overlaid, "three runs lie over one another in each chart")
    text = " ".join(words for words, _ in charts)
    assert "accumulation/depth_mean" in text and "accumulation/neurons_claimed" in text
    for _, rows in charts:
        assert {match for row in rows for match in re.findall(r"seed\d", row)} == {f"seed{n}" for n in SEEDS}


def test_tensorboard_has_the_custom_page(board, driver):
    driver.get(board + "#custom_scalars")
    titles = until(lambda: find(driver, "tf-custom-scalar-multi-line-chart-card", "title"), "charts are laid out")
    assert titles == ["depth", "neurons", "new neurons by level", "reuse", "accuracy"]
    assert "Accumulated structure" in " ".join(find(driver, "tf-category-paginated-view"))


def test_tensorboard_shows_the_figures_and_the_animation(board, driver):
    names = {"weights", "activities", "connectome", "neurons_by_level", "depth", "receptive_fields", "evolution"}
    driver.get(board + "#images&tagFilter=figures%2Fevolution")
    sources = until(lambda: find(driver, "tf-image-loader img", "src"), "images are drawn")
    assert len(sources) == len(SEEDS)
    tags = fetch(board + "data/plugin/images/tags")
    assert {f"figures/{name}" for name in names} == set(re.findall(r"figures/\w+", tags))
    with urllib.request.urlopen(board + sources[0].lstrip("/"), timeout=10) as answer:
        assert answer.headers["Content-Type"] == "image/gif" and answer.read(3) == b"GIF"


def test_hyper_parameters_are_one_row_a_run(board, driver):
    driver.get(board + "#hparams")
    cells = until(
        lambda: [text for text in find(driver, "vaadin-grid-cell-content, td, .cell, [role=cell]") if "seed" in text],
        "the table of hyper-parameters has rows",
    )
    names = {match for cell in cells for match in re.findall(r"seed\d[\w./-]*", cell)}
    assert names and {name.removesuffix("/tensorboard") for name in names} == {f"seed{n}" for n in SEEDS}


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
