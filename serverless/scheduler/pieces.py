"""What a timing becomes at EventBridge: pieces, each one AWS schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice

from serverless.scheduler.fields import DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH, YEAR

#: Where EventBridge's years end, and all timings with them.
END = datetime(YEAR.most + 1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Piece:
    """One AWS schedule.

    expression, zone: ScheduleExpression and ScheduleExpressionTimezone. anchor: of a rate() alone; StartDate is the
    next instant in the future that is a whole number of its intervals after the anchor, so that all who synchronise,
    whenever they do, give the same due times.
    """

    expression: str
    zone: str
    anchor: datetime | None = None


@dataclass(frozen=True)
class Timing(ABC):
    """When a schedule is due.

    text: as it is written in canonical form; `timing.parse(text, zone)` gives an equal timing. zone: an IANA name.
    """

    text: str
    zone: str

    @abstractmethod
    def pieces(self, today: date) -> tuple[Piece, ...]:
        """The AWS schedules that make it, at least one.

        today: in UTC. Pieces that name years reach to the end of the year after next; those that are over are left out.
        So a schedule is to be synchronised at least once a year.
        """

    @abstractmethod
    def times(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The due times t with after < t <= until, in UTC, ascending, each once; both ends are aware."""

    def next(self, after: datetime, count: int) -> list[datetime]:
        """The first `count` due times after an aware instant; fewer if EventBridge's years end before."""
        return list(islice(self.times(after, END), count))


def cron(
    minutes: Sequence[int],
    hours: Sequence[int],
    *,
    days: Sequence[int] | None = None,
    weekdays: str | Sequence[int] | None = None,
    months: Sequence[int] = range(1, 13),
    years: Sequence[int] | None = None,
) -> str:
    """The cron() expression for every minute of every hour on those days.

    days: of the month. weekdays: 1 to 7 from Sunday, or a finished field such as 2#1; at most one of the two. years: at
    most three. The longest possible has 248 of the 256 characters that EventBridge takes.
    """
    if weekdays is not None:
        on, of_week = "?", weekdays if isinstance(weekdays, str) else DAY_OF_WEEK.write(weekdays)
    else:
        on, of_week = DAY_OF_MONTH.write(days) if days else "*", "?"
    year = YEAR.write(years) if years else "*"
    return f"cron({MINUTE.write(minutes)} {HOUR.write(hours)} {on} {MONTH.write(months)} {of_week} {year})"
