"""Every so many minutes, on a grid that nobody moves: whole intervals since 1970-01-01T00:00Z."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from serverless.scheduler.errors import TimingError
from serverless.scheduler.local_times import utc
from serverless.scheduler.pieces import END, Piece, Timing, cron

LONGEST_DAYS = 366

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
_HOUR_MINUTES = 60
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Interval(Timing):
    """Every `minutes` of real time. The zone's clock changes nothing: it is only the one to show due times in."""

    minutes: int = field(compare=False, repr=False)

    def pieces(self, today: date) -> tuple[Piece, ...]:
        if _DAY_MINUTES % self.minutes:
            # AWS refuses a StartDate that lies more than 5 minutes back, so the sync takes the next one of the grid.
            return (Piece(f"rate({amount(self.minutes)})", "UTC", _EPOCH),)
        # A cron() needs no start, so nothing can shift it.
        by_hour: dict[int, list[int]] = defaultdict(list)
        for minute in range(0, _DAY_MINUTES, self.minutes):
            by_hour[minute // _HOUR_MINUTES].append(minute % _HOUR_MINUTES)
        by_minutes: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for hour, minutes in by_hour.items():
            by_minutes[tuple(minutes)].append(hour)
        return tuple(Piece(cron(minutes, hours), "UTC") for minutes, hours in by_minutes.items())

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        first = (utc(after) - _EPOCH) // _MINUTE + 1
        # One minute less, for EventBridge's last year ends before END.
        last = (min(utc(until), END - _MINUTE) - _EPOCH) // _MINUTE
        for minute in range(-(-first // self.minutes) * self.minutes, last + 1, self.minutes):
            yield _EPOCH + minute * _MINUTE


def every(seconds: float, zone: str, told: str) -> Interval:
    """The interval of so many seconds. told: how the user put it, for the error. Raises TimingError."""
    if not math.isfinite(seconds) or seconds <= 0:
        raise TimingError(f"{told}: an interval must be a number above 0. Write one such as every 15 minutes.")
    if seconds > LONGEST_DAYS * 86_400:
        raise TimingError(
            f"{told}: an interval of more than {LONGEST_DAYS} days is not supported. Shorten it, or name the day by a "
            'crontab such as "0 8 1 1 *".'
        )
    if seconds % 60:
        below, above = int(seconds // 60), int(seconds // 60) + 1
        nearest = f'are "every {amount(below)}" or "every {amount(above)}"' if below else 'is "every 1 minute"'
        raise TimingError(f"{told}: EventBridge counts in whole minutes, from 1. The nearest {nearest}.")
    minutes = int(seconds // 60)
    return Interval(f"every {amount(minutes)}", zone, minutes)


def amount(minutes: int) -> str:
    """So many minutes in the largest unit that fits, as rate() wants it: "1 hour", "90 minutes"."""
    for unit, size in (("day", _DAY_MINUTES), ("hour", _HOUR_MINUTES), ("minute", 1)):
        if minutes % size == 0:
            number = minutes // size
            return f"{number} {unit}{'s' if number > 1 else ''}"
    raise AssertionError  # a minute fits always
