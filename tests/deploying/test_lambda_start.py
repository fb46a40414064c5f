"""Starting the function, against Zappa's own package: gates on what the machine's load does not change much."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import lambda_start

pytestmark = pytest.mark.package


def test_the_package_starts_in_a_fraction_of_what_zappas_takes(package: Path, tmp_path: Path):
    """docs/benchmarks.md has the times; here processor time counts, and a limit that leaves room for noise."""
    told = lambda_start.compare(package, lambda_start.zappas_package(tmp_path), rounds=3)
    assert told["ratios"]["cpu"] < 0.45, told
    assert told["ratios"]["first"] < 0.5, told
    assert told["bytes"]["ours"] < told["bytes"]["zappa"] * 0.7


def test_an_event_costs_little_more_than_djangos_own_application():
    assert lambda_start.overhead() < 1.25
