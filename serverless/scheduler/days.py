"""Which days of a month a cron expression means: L, L-3, 15W, LW, 2#1, 6L, numbers and weekdays."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from functools import partial

from serverless.scheduler.errors import ExpressionError
from serverless.scheduler.fields import DAY_OF_MONTH, DAY_OF_WEEK

#: Given a year and a month, the days, ascending.
Days = Callable[[int, int], tuple[int, ...]]

_WEEKDAY = r"([1-7]|[A-Za-z]{3})"


def read_days(day_of_month: str, day_of_week: str) -> Days:
    """The days that the two fields mean; exactly one of them is "?". Raises ExpressionError.

    Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html: a value or * in one field asks
    for ? in the other.
    """
    if (day_of_month == "?") == (day_of_week == "?"):
        raise ExpressionError(
            f'day-of-month "{day_of_month}" and day-of-week "{day_of_week}": EventBridge wants ? in exactly one of '
            "them. Put ? into the one that does not matter."
        )
    return _of_month(day_of_month) if day_of_week == "?" else _of_week(day_of_week)


def _of_month(text: str) -> Days:
    word = text.upper()
    if word == "L":
        return partial(_last, 0)
    if found := re.fullmatch(r"L-(\d{1,2})", word):
        before = int(found[1])
        if not 1 <= before <= 30:
            raise DAY_OF_MONTH.error(text, "L- takes 1 to 30 days before the month's last")
        return partial(_last, before)
    if word in ("LW", "WL"):
        return partial(_workday_near, None)
    if found := re.fullmatch(r"(\d{1,2})W", word):
        return partial(_workday_near, DAY_OF_MONTH.number(found[1], text))
    if "L" in word or "W" in word:
        raise DAY_OF_MONTH.error(text, "L and W stand alone: L, L-3, 15W or LW, and in no list or range")
    return partial(_among, DAY_OF_MONTH.read(text))


def _of_week(text: str) -> Days:
    word = text.upper()
    if word == "L":
        # "The last day of the month or week": of the week, which ends on Saturday.
        return partial(_weekdays, (7,))
    if found := re.fullmatch(f"{_WEEKDAY}#([1-5])", word):
        return partial(_nth, DAY_OF_WEEK.number(found[1], text), int(found[2]))
    if found := re.fullmatch(f"{_WEEKDAY}L", word):
        return partial(_last_weekday, DAY_OF_WEEK.number(found[1], text))
    if "#" in word:
        raise DAY_OF_WEEK.error(text, "# takes one weekday and 1 to 5, such as 2#1, and stands in no list")
    return partial(_weekdays, DAY_OF_WEEK.read(text))


def _among(numbers: tuple[int, ...], year: int, month: int) -> tuple[int, ...]:
    length = monthrange(year, month)[1]
    return tuple(day for day in numbers if day <= length)


def _last(before: int, year: int, month: int) -> tuple[int, ...]:
    day = monthrange(year, month)[1] - before
    return (day,) if day >= 1 else ()


def _workday_near(target: int | None, year: int, month: int) -> tuple[int, ...]:
    """Monday to Friday nearest to `target` (None: the month's last day), never in another month."""
    first, length = monthrange(year, month)
    day = length if target is None else target
    if day > length:
        return ()
    weekday = (first + day - 1) % 7
    if weekday == 5:
        return (day - 1 if day > 1 else day + 2,)
    if weekday == 6:
        return (day + 1 if day < length else day - 2,)
    return (day,)


def _weekdays(numbers: tuple[int, ...], year: int, month: int) -> tuple[int, ...]:
    first, length = monthrange(year, month)
    # Python's Monday is 0; EventBridge's Sunday is 1.
    return tuple(day for day in range(1, length + 1) if (first + day) % 7 + 1 in numbers)


def _nth(weekday: int, number: int, year: int, month: int) -> tuple[int, ...]:
    return _weekdays((weekday,), year, month)[number - 1 : number]


def _last_weekday(weekday: int, year: int, month: int) -> tuple[int, ...]:
    return _weekdays((weekday,), year, month)[-1:]
