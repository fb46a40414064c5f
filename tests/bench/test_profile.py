"""Speed and memory of the statistics; figures are kept in docs/benchmarks.md."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from serverless.local.stack import Stack
from serverless.local.visitor import Visitor
from tests.conftest import ROOT

MOST_WORKER_BYTES = 400_000_000


@pytest.mark.slow
def test_the_chunk_task_is_at_least_half_as_fast_as_polars():
    """By CPU seconds, the median of interleaved rounds: what else the machine does counts little."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.profile_speed", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    print(found)
    assert found["throughput_ratio"] >= 0.5


class PeakMemory(threading.Thread):
    """The largest resident size of any one worker process, sampled ten times a second while the block runs."""

    def __init__(self, workers: list[psutil.Process]) -> None:
        super().__init__(daemon=True)
        self.workers = workers
        self.ended = threading.Event()
        self.largest = 0

    def run(self) -> None:
        while not self.ended.wait(0.1):
            for worker in self.workers:
                for process in [worker, *worker.children(recursive=True)]:
                    try:
                        self.largest = max(self.largest, process.memory_info().rss)
                    except psutil.NoSuchProcess:
                        continue

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def profile_and_measure(folder: Path, data: bytes, seconds: float) -> tuple[int, int]:
    """Run the main job on a file with the shipped settings; the parts and the largest worker's bytes."""
    stack = Stack(folder, web_port=0)
    try:
        stack.start()
        workers = [psutil.Process(stack.child(name).process.pid) for name in ("datasets", "general")]
        with Visitor(stack.url) as visitor, PeakMemory(workers) as memory:
            visitor.sign_in(*stack.demo_login())
            page = visitor.upload("big.csv", data)
            seen = visitor.await_end(page, seconds)
        assert (seen.state, seen.problem) == ("ready", "")
        return seen.parts, memory.largest
    finally:
        stack.stop()


@pytest.mark.slow
def test_a_worker_stays_under_400_mb_on_real_flights(tmp_path, flights):
    parts, largest = profile_and_measure(tmp_path, flights, 120)
    print(f"{len(flights) / 1e6:.0f} MB in {parts} parts: largest worker process {largest / 1e6:.0f} MB")
    assert largest < MOST_WORKER_BYTES


@pytest.mark.nightly
def test_a_worker_stays_under_400_mb_on_a_gigabyte(tmp_path, flights):
    header, _, rows = flights.partition(b"\n")
    data = header + b"\n" + rows * (1_000_000_000 // len(rows) + 1)
    parts, largest = profile_and_measure(tmp_path, data, 900)
    print(f"{len(data) / 1e6:.0f} MB in {parts} parts: largest worker process {largest / 1e6:.0f} MB")
    assert largest < MOST_WORKER_BYTES
