"""The times at which a zone's clock shows certain minutes and hours on certain days."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from serverless.scheduler import zones
from serverless.scheduler.days import Days

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class LocalTimes:
    """minutes, hours, months, years: what the clock may show, ascending. days: of a month, given year and month.

    A local time that the clock leaps over is skipped. One that comes twice is given once, in its first pass.
    """

    minutes: Sequence[int]
    hours: Sequence[int]
    days: Days
    months: Sequence[int]
    years: Sequence[int]

    def times(self, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[datetime]:
        """The instants t with after < t <= until, in UTC, ascending. It walks days, so a rare time costs little."""
        after, until = utc(after), utc(until)
        for day in self._dates(after.astimezone(zone).date(), until.astimezone(zone).date()):
            for instant in self._of_day(day, zone):
                if instant > until:
                    return
                if instant > after:
                    yield instant

    def _dates(self, first: date, last: date) -> Iterator[date]:
        for year in self.years:
            if year > last.year:
                return
            if year < first.year:
                continue
            for month in self.months:
                if date(year, month, 1) > last or date(year, month, monthrange(year, month)[1]) < first:
                    continue
                for number in self.days(year, month):
                    if first <= (day := date(year, month, number)) <= last:
                        yield day

    def _of_day(self, day: date, zone: ZoneInfo) -> Iterator[datetime]:
        turned = _turned(zone.key, day)
        offset = datetime.combine(day, time(12), zone).utcoffset() or timedelta(0)
        for hour in self.hours:
            for minute in self.minutes:
                if not turned:
                    yield datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC) - offset
                elif (instant := first_pass(datetime.combine(day, time(hour, minute)), zone)) is not None:
                    yield instant


def first_pass(local: datetime, zone: ZoneInfo) -> datetime | None:
    """The instant, UTC, of a naive local time: the first of two, None if the clock leaps over it."""
    instant = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    return instant if instant.astimezone(zone).replace(tzinfo=None) == local else None


def utc(instant: datetime) -> datetime:
    """The same instant in UTC. Raises ValueError for a naive one, which would be read by this machine's clock."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone. Give an aware datetime.")
    return instant.astimezone(UTC)


def _turned(zone: str, day: date) -> bool:
    """Whether the zone's clock is turned on that day or beside it."""
    middle = datetime.combine(day, time(12), UTC)
    years = {(middle - 2 * _DAY).year, (middle + 2 * _DAY).year}
    return any(abs(turn.at - middle) < 2 * _DAY for year in years for turn in zones.turns(zone, year))
