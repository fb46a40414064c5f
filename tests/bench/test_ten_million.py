"""That no question takes long, however many runs there are. Needs Postgres. docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.bench import ten_million
from tests.conftest import ROOT
from tests.environment import DATABASE_URL

pytestmark = pytest.mark.skipif(
    not DATABASE_URL.startswith("postgres"),
    reason="it measures Postgres: .ci/with-postgres .venv/bin/python -m pytest tests/bench/test_ten_million.py",
)


def report(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.ten_million", "--json", *arguments],
        cwd=ROOT,
        env={**os.environ, "CLOUDQUEUE_TEST_DATABASE_URL": DATABASE_URL},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_no_question_reads_all_of_two_hundred_thousand_runs_or_takes_long():
    told = report("--rows=200000", "--samples=2", "--lists=250", "--delete=10000", "--message-bytes=500")
    assert ten_million.faults(told) == []


@pytest.mark.nightly
def test_no_question_takes_a_tenth_of_a_second_with_ten_million_runs():
    """LEDGER_ROWS: another number of runs, where the disk has no 30 GB."""
    rows = int(os.environ.get("LEDGER_ROWS", "10000000"))
    told = report(f"--rows={rows}", "--samples=10", f"--delete={rows // 10}")
    ten_million.show(told)
    assert ten_million.faults(told) == []
