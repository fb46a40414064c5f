"""Browsers to drive: each with a profile of its own; its console is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import Chromium, chromium


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
