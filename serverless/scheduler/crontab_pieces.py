"""What a crontab becomes at EventBridge, whose expressions know neither "and" nor a second pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from serverless.scheduler import expressions, zones
from serverless.scheduler.fields import DAY_OF_WEEK
from serverless.scheduler.pieces import END, Piece, cron

if TYPE_CHECKING:
    from serverless.scheduler.crontabs import Crontab

_LAST_YEAR = END.year - 1
#: This year and the next two; a sync a year is enough, with a year to spare.
_YEARS_AHEAD = 2


def pieces(crontab: Crontab, today: date) -> tuple[Piece, ...]:
    """The AWS schedules that make a crontab. today: in UTC."""
    start = datetime.combine(today, time(0), UTC)
    # A zone behind UTC may still be in last year.
    years = range((start - timedelta(days=1)).year, min(today.year + _YEARS_AHEAD, _LAST_YEAR) + 1)
    turns = [turn for year in years for turn in zones.turns(crontab.zone, year)]
    minutes, hours = sorted(crontab.minutes), sorted(crontab.hours)
    every_hour = len(hours) == 24 and _any_day(crontab)
    if every_hour and turns and (shift := _constant_minutes(crontab.zone, turns)) is not None:
        moved = sorted((minute - shift) % 60 for minute in minutes)
        return (Piece(cron(moved, hours), "UTC"),)
    texts = list(_by_rule(crontab)) or list(_by_date(crontab, years))
    found = [Piece(text, crontab.zone) for text in texts]
    found += [Piece(text, "UTC") for turn in turns for text in _of_moments(crontab.second_pass(turn))]
    lasting = tuple(piece for piece in found if _lasts(piece, start))
    return lasting or _next_year_of(crontab, start)


def _any_day(crontab: Crontab) -> bool:
    return len(crontab.months) == 12 and crontab.whole_months() and len(crontab.days_of_week) == 7


def _constant_minutes(zone: str, turns: Sequence[zones.Turn]) -> int | None:
    """The minutes past the hour that the zone's clock is ahead of UTC's, if no turn changes them."""
    minutes = {
        offset % timedelta(hours=1) / timedelta(minutes=1) for turn in turns for offset in (turn.before, turn.after)
    }
    (first, *others) = minutes
    return int(first) if not others and first.is_integer() else None


def _by_rule(crontab: Crontab) -> Iterator[str]:
    """Expressions that hold for ever; none, if both day fields are given and the days are not whole weeks."""
    minutes, hours, months = sorted(crontab.minutes), sorted(crontab.hours), sorted(crontab.months)
    weekdays = [number + 1 for number in sorted(crontab.days_of_week)]
    if crontab.whole_months():
        given = weekdays if len(weekdays) < 7 else None
        yield cron(minutes, hours, weekdays=given, months=months)
    elif len(weekdays) == 7:
        yield cron(minutes, hours, days=sorted(crontab.days_of_month), months=months)
    else:
        # AWS: "If you use a # character, you can define only one expression in the day-of-week field."
        for week in crontab.whole_weeks():
            for weekday in weekdays:
                yield cron(minutes, hours, weekdays=f"{DAY_OF_WEEK.write([weekday])}#{week}", months=months)


def _by_date(crontab: Crontab, years: Sequence[int]) -> Iterator[str]:
    """Expressions that name year, month and day; months, and then years, that have the same days share one."""
    by_days: dict[tuple[int, ...], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for year in years:
        for month in sorted(crontab.months):
            if days := crontab.days(year, month):
                by_days[days][year].append(month)
    for days, months_by_year in by_days.items():
        by_months: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for year, months in months_by_year.items():
            by_months[tuple(months)].append(year)
        for months_of_years, same_years in by_months.items():
            yield cron(
                sorted(crontab.minutes), sorted(crontab.hours), days=days, months=months_of_years, years=same_years
            )


def _of_moments(instants: Sequence[datetime]) -> Iterator[str]:
    """Expressions for single instants in UTC, which share one where they share minutes and day."""
    by_hour: dict[tuple[date, int], list[int]] = defaultdict(list)
    for instant in instants:
        by_hour[instant.date(), instant.hour].append(instant.minute)
    by_minutes: dict[tuple[date, tuple[int, ...]], list[int]] = defaultdict(list)
    for (day, hour), minutes in by_hour.items():
        by_minutes[day, tuple(minutes)].append(hour)
    for (day, minutes_of_hours), hours in by_minutes.items():
        yield cron(minutes_of_hours, hours, days=[day.day], months=[day.month], years=[day.year])


def _lasts(piece: Piece, start: datetime) -> bool:
    """Whether something of it is still to come. AWS does not say what it makes of a schedule that can never fire."""
    read = expressions.parse(piece.expression, piece.zone)
    return next(read.times(start - timedelta(minutes=1), END), None) is not None


def _next_year_of(crontab: Crontab, start: datetime) -> tuple[Piece, ...]:
    """For what comes once in decades, such as a 29 February that is a Monday: the year in which it comes next."""
    for instant in crontab.next(start - timedelta(minutes=1), 1):
        year = instant.astimezone(ZoneInfo(crontab.zone)).year
        return tuple(Piece(text, crontab.zone) for text in _by_date(crontab, [year]))
    return ()
