"""Debian's Chromium, driven by selenium, for the tests and benchmarks that look at pages as people do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
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
PATIENCE = 300  # seconds that a page may take where much else is running


def missing() -> str:
    """What is needed and not there, or ''."""
    wanted = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium as selenium
    except ModuleNotFoundError:
        wanted.append("selenium")
    return ", ".join(wanted)


@contextlib.contextmanager
def chromium(profile: Path, *, offline: bool = False) -> Iterator[Any]:
    """A browser with an empty profile in ``profile``; with ``offline`` it has no network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(PATIENCE)
    driver.set_page_load_timeout(PATIENCE)
    driver.command_executor.client_config.timeout = PATIENCE
    try:
        if offline:
            driver.set_network_conditions(offline=True, latency=0, throughput=0)
        yield driver
    finally:
        driver.quit()


def drag(driver: Any, element: Any, x: int, y: int) -> None:
    """Press on the middle of an element, move by (x, y) pixels, let go."""
    from selenium.webdriver import ActionChains

    ActionChains(driver, duration=20).move_to_element(element).click_and_hold().move_by_offset(x, y).release().perform()
