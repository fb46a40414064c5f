"""The plant, one a test; and the way from a test's shop to its database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.clerk import Line
from tests.faults.plant import Plant, plant
from tests.faults.shop import Shop


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Plant]:
    """A plant with a queue `work` of prefetch 10."""
    with plant(tmp_path) as made:
        made.add_queue("work", prefetch=10)
        yield made


@pytest.fixture
def line(shop: Shop) -> Iterator[Line]:
    """What is between the shop's workers and its database."""
    made = Line(shop.environment["DATABASE_URL"])
    yield made
    made.close()
