"""The plant, one a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.plant import Plant, plant


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Plant]:
    """A plant with a queue `work` of prefetch 10."""
    with plant(tmp_path) as made:
        made.add_queue("work", prefetch=10)
        yield made
