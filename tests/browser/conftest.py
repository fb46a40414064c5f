"""Browsers to drive: each with a profile of its own; its console is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import Chromium, chromium
from tests.browser.live_stack import at_most
from tests.browser.socket_site import SocketSite, socket_site


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def second_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Of somebody else, at the same time."""
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def browser_without_scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """With JavaScript turned off."""
    with chromium(tmp_path_factory.mktemp("chromium"), scripts=False) as driver:
        yield driver


@pytest.fixture(scope="module")
def module_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One for a file of many small tests."""
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def site() -> Iterator[SocketSite]:
    with socket_site() as made:
        yield made


@pytest.fixture
def slowly(stack) -> Iterator[None]:
    """Datasets take a second a part: time to break things in."""
    at_most(stack, "60/m")
    yield
    at_most(stack, "0")
