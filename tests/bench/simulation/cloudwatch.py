"""What CloudWatch shows of a queue and a service: a minute at a time, late, and asleep after six quiet hours."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable

MINUTE, HOUR = 60.0, 3600.0
#: SQS stops reporting so long after the last call about a queue, and reports again so long after the next one.
SLEEPS_AFTER_SECONDS, WAKES_WITHIN_SECONDS = 6 * HOUR, 900.0
#: An alarm looks so far back for its newest figure; older than that, they are missing.
OLDEST_SECONDS = 300.0

Series = dict[str, float | None]


class Metrics:
    """lag_seconds: between which each minute's figures come late."""

    def __init__(self, lag_seconds: tuple[float, float], rng: random.Random) -> None:
        self._lag, self._rng = lag_seconds, rng
        self._points: list[Series] = []
        self._shown_at: list[float] = []
        self._newest = -1
        self._touched_at, self._awake_at = 0.0, 0.0
        self._values: dict[tuple[str, int], float | None] = {}

    def touch(self, now: float) -> None:
        """Somebody called SQS about the queue."""
        if now - self._touched_at > SLEEPS_AFTER_SECONDS:
            self._awake_at = now + WAKES_WITHIN_SECONDS
        self._touched_at = now

    def record(self, now: float, visible: int, in_flight: int, running: int, desired: int) -> None:
        asleep = now < self._awake_at or now - self._touched_at > SLEEPS_AFTER_SECONDS
        self._points.append(
            {
                "v1": None if asleep else visible,
                # Reported only while there are any.
                "f1": None if asleep or not in_flight else in_flight,
                "running": running,
                "desired": desired,
            }
        )
        shown = now + self._rng.uniform(*self._lag)
        self._shown_at.append(max(shown, self._shown_at[-1]) if self._shown_at else shown)

    def last(self, expression: str, count: int, now: float) -> list[float | None]:
        """The newest so many values of an expression that are shown by now, oldest first; None where one is missing."""
        while self._newest + 1 < len(self._points) and self._shown_at[self._newest + 1] <= now:
            self._newest += 1
        if self._newest < count - 1 or now - self._newest * MINUTE > OLDEST_SECONDS:
            return [None] * count
        return [self._value(expression, index) for index in range(self._newest - count + 1, self._newest + 1)]

    def _value(self, expression: str, index: int) -> float | None:
        key = expression, index
        if key not in self._values:
            self._values[key] = evaluate(expression, self._points[index])
        return self._values[key]


def all_of(values: list[float | None], breaching: Callable[[float], bool]) -> bool:
    """Whether each breaches; what is missing does not."""
    return all(value is not None and breaching(value) for value in values)


def evaluate(expression: str, series: Series) -> float | None:
    """Metric math at one minute, as far as our policies use it. None where a series that is not filled has a gap.

    Raises ZeroDivisionError where CloudWatch would show a gap: our expressions must not divide by zero.
    """
    filled = re.sub(r"FILL\((\w+), (\w+)\)", r"filled('\1', \2)", expression)
    bare = set(re.findall(r"\b[a-z]\w*\b", re.sub(r"filled\('\w+', \w+\)", "", filled)))
    if any(series[name] is None for name in bare):
        return None
    names = {
        "IF": lambda condition, yes, no: yes if condition else no,
        "filled": lambda name, default: default if series[name] is None else series[name],
        **{name: series[name] for name in bare},
    }
    value = float(eval(expression if filled == expression else filled, {"__builtins__": {}}, names))  # noqa: S307 - our own
    assert math.isfinite(value), expression
    return value
