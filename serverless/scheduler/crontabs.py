"""Celery's crontab: when it is due, in its zone, on the days when the zone's clock is turned too."""

from __future__ import annotations

import heapq
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from serverless.scheduler import crontab_pieces, zones
from serverless.scheduler.crontab_fields import FIELDS, MONTH_NAMES
from serverless.scheduler.errors import TimingError
from serverless.scheduler.fields import YEAR
from serverless.scheduler.local_times import LocalTimes, utc
from serverless.scheduler.pieces import END, Piece, Timing
from serverless.scheduler.zones import Turn

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
#: With leap years: a crontab for 29 February comes.
_MONTH_LENGTHS = {month: monthrange(2000, month)[1] for month in range(1, 13)}


@dataclass(frozen=True)
class Crontab(Timing):
    """minutes, hours, days of the month, months and weekdays (0 is Sunday), all of which must agree: Celery's "and".

    A local time that the clock leaps over is skipped; one that comes twice is due in its first pass, as at EventBridge.
    But what is also due within the hour before the repeated times and within the hour after them is due in both passes:
    an hourly entry must not pause there.
    """

    minutes: frozenset[int] = field(compare=False, repr=False)
    hours: frozenset[int] = field(compare=False, repr=False)
    days_of_month: frozenset[int] = field(compare=False, repr=False)
    months: frozenset[int] = field(compare=False, repr=False)
    days_of_week: frozenset[int] = field(compare=False, repr=False)

    def pieces(self, today: date) -> tuple[Piece, ...]:
        return crontab_pieces.pieces(self, today)

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        after, until = utc(after), min(utc(until), END)
        zone = ZoneInfo(self.zone)
        shown = LocalTimes(
            minutes=sorted(self.minutes),
            hours=sorted(self.hours),
            days=self.days,
            months=sorted(self.months),
            years=range(YEAR.least, YEAR.most + 1),
        )
        # By the year, so that turns are looked for no further than someone asks.
        for year in range(max(after.year, YEAR.least), until.year + 1):
            begin = max(after, datetime(year, 1, 1, tzinfo=UTC) - _MINUTE)
            end = min(until, datetime(year + 1, 1, 1, tzinfo=UTC) - _MINUTE)
            added = [
                instant
                for turn in zones.turns(self.zone, year)
                for instant in self.second_pass(turn)
                if begin < instant <= end
            ]
            yield from heapq.merge(shown.times(zone, begin, end), added)

    def days(self, year: int, month: int) -> tuple[int, ...]:
        """The days of a month on which it is due, ascending."""
        if month not in self.months:
            return ()
        first, length = monthrange(year, month)
        # Python's Monday is 0; Celery's Sunday is 0.
        return tuple(
            day for day in sorted(self.days_of_month) if day <= length and (first + day) % 7 in self.days_of_week
        )

    def second_pass(self, turn: Turn) -> list[datetime]:
        """The due times, UTC, that a turn of the clock adds: local times that come for the second time."""
        if not turn.repeats or not self._any(turn.first_local - _HOUR, turn.first_local):
            return []
        if not self._any(turn.last_local, turn.last_local + _HOUR):
            return []
        return [(local - turn.after).replace(tzinfo=UTC) for local in self._shown(turn.first_local, turn.last_local)]

    def longest_month(self) -> int:
        """How many days its longest month has."""
        return max(_MONTH_LENGTHS[month] for month in self.months)

    def whole_months(self) -> bool:
        """Whether its days of the month leave nothing out."""
        return all(set(range(1, _MONTH_LENGTHS[month] + 1)) <= self.days_of_month for month in self.months)

    def whole_weeks(self) -> list[int]:
        """[1, 3] for the days 1-7 and 15-21; empty if they are no such weeks. The fifth is what a month has left."""
        longest = self.longest_month()
        left = {day for day in self.days_of_month if day <= longest}
        weeks = []
        for week in range(1, 6):
            days = set(range(7 * week - 6, min(7 * week, longest) + 1))
            if days <= left:
                weeks.append(week)
                left -= days
        return [] if left else weeks

    def _any(self, first: datetime, end: datetime) -> bool:
        return next(self._shown(first, end), None) is not None

    def _shown(self, first: datetime, end: datetime) -> Iterator[datetime]:
        """The naive local times that it means, first <= t < end."""
        # The clocks of old had odd seconds; a crontab means whole minutes.
        local = first if not first.second else first.replace(second=0) + _MINUTE
        while local < end:
            if (
                local.minute in self.minutes
                and local.hour in self.hours
                and local.day in self.days(local.year, local.month)
            ):
                yield local
            local += _MINUTE


def read(text: str, zone: str) -> Crontab:
    """Read "minute hour day-of-month month day-of-week". Raises TimingError."""
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise TimingError(
            f'crontab "{text}" has {len(parts)} fields instead of 5: minute, hour, day of month, month, day of week. '
            'Write one such as "0 8 * * mon", or an interval such as "every 15 minutes".'
        )
    try:
        minutes, hours, days_of_month, months, days_of_week = (
            each.read(part) for each, part in zip(FIELDS, parts, strict=True)
        )
    except TimingError as error:
        raise TimingError(f'crontab "{text}": {error}') from None
    if min(days_of_month) > max(_MONTH_LENGTHS[month] for month in months):
        names = [MONTH_NAMES[month - 1].capitalize() for month in sorted(months)]
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        have = "has" if len(names) == 1 else "have"
        day = min(days_of_month)
        raise TimingError(
            f'crontab "{text}" never comes: {listed} {have} no {day}{"st" if day == 31 else "th"}. '
            "Choose a day that the month has, or another month."
        )
    return Crontab(" ".join(parts), zone, minutes, hours, days_of_month, months, days_of_week)
