"""EventBridge's own expressions, cron(), rate() and at(), with the meaning that they have at AWS.

Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from serverless.scheduler import zones
from serverless.scheduler.days import read_days
from serverless.scheduler.errors import ExpressionError
from serverless.scheduler.fields import HOUR, MINUTE, MONTH, YEAR
from serverless.scheduler.local_times import LocalTimes, first_pass, utc

#: Characters of an expression, in Scheduler and in rules.
LONGEST = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
_MINUTES = {"minute": 1, "hour": 60, "day": 1440}


class Expression(Protocol):
    """When EventBridge fires."""

    @property
    def text(self) -> str: ...

    @property
    def zone(self) -> str: ...

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The instants t with after < t <= until, in UTC, ascending; both ends are aware."""
        ...


def parse(text: str, zone: str = "UTC", start: datetime | None = None) -> Expression:
    """Read one expression. Raises ExpressionError.

    zone: whose clock a cron() and an at() mean; rules (legacy) know UTC alone. start: aware; a rate() counts from
    there (StartDate, or the creation) and cannot do without; the others do not look at it.
    """
    if len(text) > LONGEST:
        raise ExpressionError(
            f"the expression of {len(text)} characters exceeds {LONGEST}, EventBridge's limit. Split it in two."
        )
    found = re.fullmatch(r"(cron|rate|at)\((.*)\)", text)
    if not found:
        raise ExpressionError(
            f'"{text}" is no EventBridge expression. Write cron(...), rate(...) or at(...), such as rate(5 minutes).'
        )
    where = zones.find(zone, ExpressionError)
    kind, body = found.groups()
    try:
        if kind == "cron":
            return _cron(text, where, body)
        return _rate(text, where, body, start) if kind == "rate" else _at(text, where, body)
    except ExpressionError as error:
        raise ExpressionError(f"{text}: {error}") from None


@dataclass(frozen=True)
class Cron:
    """cron(minute hour day-of-month month day-of-week year).

    A local time that the zone's clock leaps over is skipped, one that comes twice fires once. AWS does not say in which
    of the two passes; here it is the first.
    """

    text: str
    zone: str
    local: LocalTimes = field(compare=False, repr=False)

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        return self.local.times(ZoneInfo(self.zone), after, until)


@dataclass(frozen=True)
class Rate:
    """rate(5 minutes): `start`, and every so many minutes of real time after it, whatever the zone's clock does."""

    text: str
    zone: str
    minutes: int
    start: datetime

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        # In whole minutes since 1970, for a rate of a billion days is one too, and no timedelta.
        start = (utc(self.start) - _EPOCH) // _MINUTE
        first = (utc(after) - _EPOCH) // _MINUTE + 1
        last = (utc(until) - _EPOCH) // _MINUTE
        steps = max(0, -(-(first - start) // self.minutes))
        for minute in range(start + steps * self.minutes, last + 1, self.minutes):
            yield _EPOCH + minute * _MINUTE


@dataclass(frozen=True)
class At:
    """at(2026-11-30T08:00:00): once, by the zone's clock; never, if the clock leaps over that time."""

    text: str
    zone: str
    local: datetime

    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        instant = first_pass(self.local, ZoneInfo(self.zone))
        if instant is not None and utc(after) < instant <= utc(until):
            yield instant


def _cron(text: str, zone: ZoneInfo, body: str) -> Cron:
    parts = body.split()
    if len(parts) != 6:
        raise ExpressionError(
            f"{len(parts)} fields; EventBridge has 6: minute, hour, day-of-month, month, day-of-week, year. "
            "Write cron(0 8 ? * MON *), say."
        )
    minute, hour, day_of_month, month, day_of_week, year = parts
    shown = LocalTimes(
        minutes=MINUTE.read(minute),
        hours=HOUR.read(hour),
        days=read_days(day_of_month, day_of_week),
        months=MONTH.read(month),
        years=YEAR.read(year),
    )
    return Cron(text, zone.key, shown)


def _rate(text: str, zone: ZoneInfo, body: str, start: datetime | None) -> Rate:
    found = re.fullmatch(r"([1-9][0-9]*)\s+(minute|hour|day)(s?)", body)
    if not found:
        raise ExpressionError("a rate is a whole number, 1 or more, and minutes, hours or days. Write rate(5 minutes).")
    number, unit, plural = int(found[1]), found[2], found[3]
    if (number == 1) == bool(plural):
        raise ExpressionError(
            f"EventBridge wants the singular for 1 and the plural otherwise. "
            f"Write rate({number} {unit}{'s' if number > 1 else ''})."
        )
    if start is None:
        raise ExpressionError("a rate counts from a start. Give StartDate, or the time at which it was created.")
    return Rate(text, zone.key, number * _MINUTES[unit], utc(start))


def _at(text: str, zone: ZoneInfo, body: str) -> At:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", body):
            raise ValueError
        return At(text, zone.key, datetime.fromisoformat(body))
    except ValueError:
        raise ExpressionError(
            f'"{body}" is not a date and time. Write yyyy-mm-ddThh:mm:ss, such as at(2026-11-30T08:00:00).'
        ) from None
