"""Drive Debian's Chromium with selenium, for tests and benchmarks of pages."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=1400,1000",
)
TIMEOUT = 300  # seconds that a page may take where much else is running


def missing() -> str:
    """List the programs that are needed and missing, or ''."""
    wanted = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium as selenium
    except ModuleNotFoundError:
        wanted.append("selenium")
    return ", ".join(wanted)


@contextlib.contextmanager
def chromium(profile: Path, *, offline: bool = False) -> Iterator[Any]:
    """Open a browser with an empty profile in ``profile``; with ``offline`` it has no network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(TIMEOUT)
    driver.set_page_load_timeout(TIMEOUT)
    driver.command_executor.client_config.timeout = TIMEOUT
    try:
        if offline:
            driver.set_network_conditions(offline=True, latency=0, throughput=0)
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for ``condition`` and return its value; AssertionError with ``what`` after TIMEOUT."""
    end = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < end, f"after {TIMEOUT} s there is still nothing where {what}"
        time.sleep(0.5)
    return found


@contextlib.contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """Start TensorBoard over the folder ``runs``, and return its address once it has read all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([*command, "--load_fast=false", "--samples_per_plugin", "images=100"], **quiet)
    address = f"http://127.0.0.1:{port}/"
    wanted = {f"{path.parent.name}/{path.name}" for path in runs.glob("*/tensorboard")}

    def read() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(address + "data/runs", timeout=10) as answer:
            return wanted <= set(json.load(answer))
        return False

    try:
        until(read, "TensorBoard has read all runs")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def everywhere(driver: Any, selector: str, what: str = "text") -> list[Any]:
    """Read the text, or another property, of every element that a selector matches, also in shadow roots, in the order
    of the page."""
    return driver.execute_script(
        """
        const [selector, what] = arguments, found = [];
        function text(node) {
          if (node.nodeType === Node.TEXT_NODE) return node.textContent.trim() + " ";
          if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) return "";
          return [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(text).join("");
        }
        const read = {text: child => text(child).trim().replace(/\\s+/g, " ")}[what] || (child => child[what]);
        (function walk(node) {
          for (const child of node.querySelectorAll("*")) {
            if (child.matches(selector)) found.push(read(child));
            if (child.shadowRoot) walk(child.shadowRoot);
          }
        })(document);
        return found;
        """,
        selector,
        what,
    )


def drag(driver: Any, element: Any, x: int, y: int) -> None:
    """Drag the middle of an element by (x, y) pixels."""
    from selenium.webdriver import ActionChains

    ActionChains(driver, duration=20).move_to_element(element).click_and_hold().move_by_offset(x, y).release().perform()
