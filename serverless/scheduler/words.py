"""A timing in plain English, as a page shows it. The zone is not named: it stands beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from serverless.scheduler.crontab_fields import MONTH_NAMES, WEEKDAY_NAMES
from serverless.scheduler.crontabs import Crontab
from serverless.scheduler.fields import runs
from serverless.scheduler.intervals import Interval
from serverless.scheduler.pieces import Timing

_WEEKS = ("first", "second", "third", "fourth", "fifth")
_WORKDAYS = {1, 2, 3, 4, 5}
#: More clock times than these are told as a rule, or by their minutes and hours.
_MOST_LISTED = 6
#: Evenly spaced times from here on are told as a rule.
_FEWEST_EVERY = 4


def words(timing: Timing) -> str:
    """Such as "every Monday at 08:00" or "every 15 minutes from 08:00 to 17:45 on weekdays"."""
    if isinstance(timing, Interval):
        return timing.text.replace("every 1 ", "every ")
    if not isinstance(timing, Crontab):
        return timing.text
    minutes, hours = sorted(timing.minutes), sorted(timing.hours)
    rule = _rule(minutes, hours)
    if rule is None:
        return f"{_days(timing, each=True)} at {_listed([_clock(h, m) for h in hours for m in minutes])}"
    return f"{rule} {_days(timing, each=False)}".rstrip()


def _rule(minutes: Sequence[int], hours: Sequence[int]) -> str | None:
    """The times of a day as a rule; None if it is better to list them."""
    first, last = _clock(hours[0], minutes[0]), _clock(hours[-1], minutes[-1])
    step = _even(minutes, 60)
    count = len(minutes) * len(hours)
    if len(hours) == 24:
        return _each_hour(minutes, step)
    if step and count >= _FEWEST_EVERY and len(runs(hours)) == 1:
        return f"every {_amount(step, 'minute')} from {first} to {last}"
    hour_step = _even(hours, 24)
    if hour_step and len(minutes) == 1 and count >= _FEWEST_EVERY:
        return f"every {_amount(hour_step, 'hour')}" + ("" if first == "00:00" else f" from {first} to {last}")
    if count <= _MOST_LISTED:
        return None
    told = _spans([str(hour) for hour in hours], hours)
    if step and len(minutes) > 1:
        return f"every {_amount(step, 'minute')}{_from_past(minutes[0])} in the hours {told}"
    return f"at {_minutes(_spans([str(minute) for minute in minutes], minutes))} past the hours {told}"


def _each_hour(minutes: Sequence[int], step: int) -> str:
    past = _spans([str(minute) for minute in minutes], minutes)
    if not step:
        return f"at {_minutes(past)} past every hour"
    if len(minutes) == 1:
        return f"every hour at {_minutes(past)} past" if minutes[0] else "every hour"
    return f"every {_amount(step, 'minute')}{_from_past(minutes[0])}"


def _from_past(minute: int) -> str:
    return f" from {_minutes(str(minute))} past the hour" if minute else ""


def _minutes(number: str) -> str:
    return f"{number} minute" if number == "1" else f"{number} minutes"


def _even(numbers: Sequence[int], size: int) -> int:
    """The step with which the numbers go evenly round a clock of that size; 0 if they do not."""
    step = size // len(numbers)
    return step if list(numbers) == list(range(numbers[0], size, step)) and size % len(numbers) == 0 else 0


def _days(crontab: Crontab, *, each: bool) -> str:
    """On which days. each: as the subject ("every Monday"), and not after a rule ("on Mondays", or nothing)."""
    weekdays = sorted(crontab.days_of_week, key=lambda number: (number - 1) % 7)
    names = [WEEKDAY_NAMES[number].capitalize() for number in weekdays]
    whole_month, any_weekday = crontab.whole_months(), len(weekdays) == 7
    months = _months(crontab.months)
    if whole_month:
        within = f" {'from' if _in_a_row(crontab.months) else 'in'} {months}" if months else ""
        if any_weekday:
            return ("every day" if each else "") + (within if each else within.lstrip())
        if set(weekdays) == _WORKDAYS:
            return f"on weekdays{within}"
        return (f"every {_listed(names)}" if each else f"on {_listed([f'{name}s' for name in names])}") + within
    numbers = [day for day in sorted(crontab.days_of_month) if day <= crontab.longest_month()]
    if any_weekday:
        return f"on the {_spans([_ordinal(day) for day in numbers], numbers)} of {months or 'each month'}"
    if weeks := crontab.whole_weeks():
        told = _listed([_WEEKS[week - 1] for week in weeks])
        return f"on the {told} {_listed(names)} of {months or 'each month'}"
    dates = _spans([_ordinal(day) for day in numbers], numbers, "or")
    return f"on every {_listed(names, 'or')} that is the {dates} of {months or 'a month'}"


def _months(numbers: Collection[int]) -> str:
    ordered = sorted(numbers)
    return "" if len(ordered) == 12 else _spans([MONTH_NAMES[number - 1].capitalize() for number in ordered], ordered)


def _in_a_row(numbers: Collection[int]) -> bool:
    return len(numbers) > 2 and len(runs(sorted(numbers))) == 1


def _spans(told: Sequence[str], numbers: Sequence[int], last: str = "and") -> str:
    """Words for ascending numbers, three and more in a row as "8 to 17"."""
    by_number = dict(zip(numbers, told, strict=True))
    parts: list[str] = []
    for run in runs(numbers):
        if len(run) > 2:
            parts.append(f"{by_number[run[0]]} to {by_number[run[-1]]}")
        else:
            parts += [by_number[number] for number in run]
    return _listed(parts, last)


def _listed(parts: Sequence[str], last: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _amount(number: int, unit: str) -> str:
    if number == 60 and unit == "minute":
        return "hour"
    return unit if number == 1 else f"{number} {unit}s"


def _clock(hour: int, minute: int) -> str:
    return f"{hour:02d}:{minute:02d}"


def _ordinal(number: int) -> str:
    ending = "th" if 11 <= number <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
