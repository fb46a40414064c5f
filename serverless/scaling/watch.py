"""What a scaler remembers of a pool between two looks: how long it has been quiet, and its busiest moment lately."""

from __future__ import annotations

from collections import deque

from serverless.scaling.policy import SPARE_SECONDS, Figures


class Watch:
    """One pool, looked at again and again, by a clock that only goes forward. A new one takes nothing away for a while.

    A look without its figures starts the times anew: what nobody saw may have been work.
    """

    def __init__(self, now: float) -> None:
        """now: seconds, as of time.monotonic()."""
        self._busy_at = now
        self._since = now
        self._desired = 0
        # Moments of work, each busier than all after it, so that the first is the busiest and the list stays short.
        self._work: deque[tuple[float, int]] = deque()

    def look(
        self,
        now: float,
        *,
        waiting: int | None,
        in_flight: int | None,
        running: int | None,
        desired: int,
        oldest_age_seconds: float | None = None,
        holding: int | None = None,
    ) -> Figures:
        """Note what there is, and give it back with what it has been."""
        if waiting is None or in_flight is None:
            self._busy_at = self._since = now
            self._work.clear()
        else:
            self._note(now, waiting + in_flight)
        if desired > self._desired:
            # Woken, or widened: nobody is sent home before having had the time to find work.
            self._busy_at = self._since = now
        self._desired = desired
        watched = now - self._since >= SPARE_SECONDS and bool(self._work)
        return Figures(
            waiting=waiting,
            in_flight=in_flight,
            running=running,
            desired=desired,
            oldest_age_seconds=oldest_age_seconds,
            quiet_seconds=now - self._busy_at,
            most_work=self._work[0][1] if watched else None,
            holding=holding,
        )

    def _note(self, now: float, work: int) -> None:
        if work:
            self._busy_at = now
        while self._work and self._work[-1][1] <= work:
            self._work.pop()
        self._work.append((now, work))
        while self._work[0][0] < now - SPARE_SECONDS:
            self._work.popleft()
