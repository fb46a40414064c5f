"""Time zones: looking one up by name, and finding where its clock is turned."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from serverless.scheduler.errors import ScheduleError

#: Files that lie among a machine's zones, and are none that AWS knows.
_NOT_ZONES = {"localtime", "Factory"}
#: No zone turns its clock twice within so short a time.
_STRIDE = timedelta(hours=12)


def find(name: str, error: type[ScheduleError]) -> ZoneInfo:
    """The zone by its IANA name, spelled as there. Raises `error` with the nearest name."""
    # A look into the folder alone would find "europe/berlin" on a Mac, whose files know no case.
    known = _names()
    if name in known:
        return ZoneInfo(name)
    by_lower = {each.lower(): each for each in known}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f'Did you mean "{by_lower[nearest[0]]}"?' if nearest else 'Write a name such as "Europe/Berlin" or "UTC".'
    raise error(f'time zone "{name}" is not in the IANA database. {hint}')


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    # Once a process: it opens every file of the machine's zone folder, 50 ms.
    return frozenset(available_timezones()) - _NOT_ZONES


@dataclass(frozen=True)
class Turn:
    """One turn of a zone's clock.

    at: the instant, UTC. before, after: what the clock is ahead of UTC then.
    """

    at: datetime
    before: timedelta
    after: timedelta

    @property
    def repeats(self) -> bool:
        """Whether the clock goes back, so that local times come twice."""
        return self.after < self.before

    @property
    def first_local(self) -> datetime:
        """Naive: the first local time that comes twice, or that does not come at all."""
        return (self.at + min(self.before, self.after)).replace(tzinfo=None)

    @property
    def last_local(self) -> datetime:
        """Naive: where those local times end; it is none of them."""
        return (self.at + max(self.before, self.after)).replace(tzinfo=None)


@lru_cache(maxsize=4096)
def turns(name: str, year: int) -> tuple[Turn, ...]:
    """The turns of a zone's clock in one UTC year, ascending."""
    zone = ZoneInfo(name)
    here = datetime(year, 1, 1, tzinfo=UTC)
    end = datetime(year + 1, 1, 1, tzinfo=UTC)
    found: list[Turn] = []
    offset = _offset(zone, here)
    while here < end:
        there = min(here + _STRIDE, end)
        later = _offset(zone, there)
        if later != offset:
            found.append(Turn(_first_with_another(zone, here, there), offset, later))
        here, offset = there, later
    return tuple(found)


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _first_with_another(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The second at which the offset of `low` is over; at `high` it is."""
    old = _offset(zone, low)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        low, high = (middle, high) if _offset(zone, middle) == old else (low, middle)
    return high
