"""A real browser: headless Chromium, driven through its own driver. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-quic",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


def _installed(*names: str) -> str:
    """The first of these programs that is installed. Skips the test if none is; fails it in CI."""
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        reason = f"NO BROWSER TEST WAS RUN: none of {', '.join(names)} is installed (apt install chromium-driver)."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _chromium(profile: Path, *, scripts: bool) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = _installed("chromium", "chromium-browser", "google-chrome")
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    driver = webdriver.Chrome(options, Service(_installed("chromedriver")))
    try:
        # Headless, the window's size includes a frame that nobody sees; this is the page's.
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.set_page_load_timeout(120)
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium with a profile of its own; its console is kept."""
    yield from _chromium(tmp_path_factory.mktemp("chromium"), scripts=True)


@pytest.fixture
def browser_without_scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """The same with JavaScript turned off."""
    yield from _chromium(tmp_path_factory.mktemp("chromium"), scripts=False)
