"""Doing the same in several threads at the same moment, each with a database connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

T = TypeVar("T")
#: Seconds after which a test whose threads wait for each other has failed.
PATIENCE_SECONDS = 60


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """What work(0), work(1), ... give, called in threads that begin together. Raises what the first that failed raised."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T:
        try:
            barrier.wait(PATIENCE_SECONDS)
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run, number) for number in range(count)]
        return [future.result(PATIENCE_SECONDS) for future in futures]
