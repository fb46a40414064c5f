"""How fast the API is asked, and what is tried again.

EventBridge Scheduler takes 50 to 5000 requests a second of a kind, by region and kind; the account shares them.
Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/scheduler-quotas.html
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from serverless import aws

_Answer = TypeVar("_Answer")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: botocore has tried each of them four times already.
_MOST_TRIES = 8


class OutOfTimeError(Exception):
    """The budget of seconds is spent; nothing further is asked."""


class Pace:
    """Lets one request through after the other.

    per_second: as many in the long run, and a tenth of them at once. budget_seconds: none is let through after that;
    None: no limit. clock, sleep: seconds that go by, for tests.
    """

    def __init__(
        self,
        per_second: float,
        budget_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if per_second <= 0:
            raise ValueError(f"per_second={per_second} lets nothing through. Give more than 0.")
        self._per_second = per_second
        self._most = max(1.0, per_second / 10)
        self._tokens = self._most
        self._clock = clock
        self._sleep = sleep
        self._at = clock()
        self._deadline = None if budget_seconds is None else self._at + budget_seconds

    @property
    def is_over(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    def call(self, request: Callable[[], _Answer]) -> _Answer:
        """Make one request as soon as it may be made, again if AWS is busy or failed.

        Raises OutOfTimeError, and what the request raises in the end.
        """
        tries = 0
        while True:
            self._take()
            try:
                return request()
            except aws.ERRORS as error:
                tries += 1
                if not aws.is_passing(error) or tries >= _MOST_TRIES:
                    raise
                limit = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0**tries)
                self._wait(limit * random.uniform(0.5, 1.0))

    def _take(self) -> None:
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self.is_over:
            raise OutOfTimeError
        self._tokens -= 1
        if self._tokens < 0:
            self._wait(-self._tokens / self._per_second)

    def _wait(self, seconds: float) -> None:
        if self._deadline is not None and self._clock() + seconds >= self._deadline:
            raise OutOfTimeError
        self._sleep(seconds)
