"""What every producer process does: it sends what its standard input asks for.

A line `single 300` or `bulk 300` asks for so many no-op tasks, one by one or in the library's way for many. Each line is
answered with the calls of functions until now, in Python and in C, of all threads: 0 unless BENCH_COUNT_CALLS is set. To
learn what has gone on in the background meanwhile, ask for `single 0`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

_counts: list[list[int]] = []


def count_calls() -> None:
    """Count the calls of this thread, and of each that starts from now on, if BENCH_COUNT_CALLS is set."""
    if not os.environ.get("BENCH_COUNT_CALLS"):
        return

    def start(frame: FrameType, event: str, argument: object) -> None:
        """The first event of a thread: from then on it counts into a cell of its own."""
        cell = [0]
        _counts.append(cell)

        def count(frame: FrameType, event: str, argument: object) -> None:
            if event in ("call", "c_call"):
                cell[0] += 1

        sys.setprofile(count)

    threading.setprofile(start)
    sys.setprofile(start)


def serve(**sends: Callable[[int], object]) -> None:
    """Answer lines until the input ends. sends: for each word, what sends so many tasks."""
    print("ready", flush=True)
    for line in sys.stdin:
        word, number = line.split()
        sends[word](int(number))
        print(sum(cell[0] for cell in _counts), flush=True)
