"""Headless Chromium, driven through its own driver. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.errorhandler import ErrorHandler

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
#: What the driver says of an element whose page was replaced between two of its own questions to the browser.
_STALE = ("Node with given id does not belong to the document", "No node with given id found")


class StaleIsStale(ErrorHandler):
    """Tells a stale element as one where chromedriver says `unknown error: unhandled inspector error`.

    https://github.com/SeleniumHQ/selenium/issues/15401
    """

    def check_response(self, response: dict[str, Any]) -> None:
        try:
            super().check_response(response)
        except StaleElementReferenceException:
            raise
        except WebDriverException as error:
            if any(text in str(error.msg) for text in _STALE):
                raise StaleElementReferenceException(error.msg, error.screen, error.stacktrace) from error
            raise


class Chromium(webdriver.Chrome):
    """Chrome's driver, with its errors told apart."""

    def __init__(self, options: webdriver.ChromeOptions, service: Service) -> None:
        super().__init__(options, service)
        self.error_handler = StaleIsStale()


def _installed(*names: str) -> str:
    """The first of these programs that is installed. Skips the test if none is; fails it in CI."""
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        reason = f"NO BROWSER TEST WAS RUN: none of {', '.join(names)} is installed (apt install chromium-driver)."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def chromium(profile: Path, *, scripts: bool = True) -> Iterator[Chromium]:
    """A browser while the block runs.

    profile: its folder. scripts: whether JavaScript is on.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = _installed("chromium", "chromium-browser", "google-chrome")
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    driver = Chromium(options, Service(_installed("chromedriver")))
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
