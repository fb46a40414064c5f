"""A page of a SocketSite that watches something: opening it, and what it has heard."""

from __future__ import annotations

from typing import Any

from tests.browser.chromium import Chromium
from tests.browser.socket_site import SocketSite
from tests.waiting import wait_for

#: What stays as long as it is: nothing of this is to come within a test that does not ask for it.
NEVER = 9999
QUICK = {"retry-seconds": 0.01, "retry-most-seconds": 0.05, "poll-after-seconds": NEVER, "stable-seconds": NEVER}


def watch(browser: Chromium, site: SocketSite, **seconds: float) -> None:
    """Open the page. seconds: its times, such as ping=0.1."""
    given = {f"{name.replace('_', '-')}-seconds": value for name, value in seconds.items()}
    site.attributes = {name: str(value) for name, value in {**QUICK, **given}.items()}
    browser.get(site.url)


def told(browser: Chromium) -> dict[str, Any]:
    """What the page has heard until now."""
    return browser.execute_script("return window.told") or {}


def sequences(browser: Chromium) -> list[int]:
    return [each["seq"] for each in told(browser).get("states", [])]


def statuses(browser: Chromium) -> list[str]:
    return told(browser).get("statuses", [])


def await_status(browser: Chromium, status: str) -> None:
    wait_for(lambda: statuses(browser)[-1:] == [status], f"status {status}")


def await_states(browser: Chromium, *expected: int) -> None:
    """Wait for the last of these sequences, and see that there were no others."""
    wait_for(lambda: sequences(browser)[-1:] == [expected[-1]], f"state {expected[-1]}")
    assert sequences(browser) == list(expected)


def hide(browser: Chromium, *, is_hidden: bool) -> None:
    """Headless, a window is never hidden: the page is told that it is."""
    browser.execute_script(
        "Object.defineProperty(document, 'hidden', {configurable: true, get: () => arguments[0]});"
        "document.dispatchEvent(new Event('visibilitychange'));".replace("arguments[0]", str(is_hidden).lower())
    )
