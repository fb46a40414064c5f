"""Timings that cannot be had: each is refused with its reason, its rule and the nearest thing that can."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery.schedules import crontab, schedule, solar
from hypothesis import given
from hypothesis import strategies as st

from serverless.scheduler import timing
from serverless.scheduler.errors import TimingError

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 8 * *", 'crontab "0 8 * *" has 4 fields instead of 5: minute, hour, day of month, month, day of week.'),
        ("0 8 * * mon *", "has 6 fields instead of 5"),
        ("", 'Write one such as "0 8 * * mon", or an interval such as "every 15 minutes".'),
        ("60 8 * * *", 'crontab "60 8 * * *": minute "60": 60 is outside 0 to 59. Correct it.'),
        ("0 24 * * *", 'hour "24": 24 is outside 0 to 23.'),
        ("0 8 0 * *", 'day of month "0": 0 is outside 1 to 31.'),
        ("0 8 * 13 *", 'month "13": 13 is outside 1 to 12.'),
        ("0 8 * * 7", 'day of week "7": 7 is outside 0 to 6; Celery\'s Sunday is 0 or sun.'),
        ("0 8 * * mno", '"mno" is no number and no name. Did you mean "mon"?'),
        ("0 8 * janury *", 'month "janury": "janury" is no number and no name. Did you mean "january"?'),
        ("x 8 * * *", 'minute "x": "x" is no number. Write 0 to 59, *, */2, a range or a list.'),
        ("5, 8 * * *", 'minute "5,": a number is missing.'),
        ("-5 8 * * *", 'minute "-5": a number is missing.'),
        ("5/15 * * * *", 'minute "5/15": a step needs * or a range before it. Write 5-59/15.'),
        ("*/0 * * * *", 'minute "*/0": the step "0" is not a whole number, 1 or more.'),
        ("*/90 * * * *", "the step 90 exceeds 59, so it would mean 0 alone. Write 0, or an interval such as every 90 minutes."),
        ("0 0 31 2 *", 'crontab "0 0 31 2 *" never comes: February has no 31st. Choose a day that the month has, or another month.'),
        ("0 0 30 2 mon", "February has no 30th."),
        ("0 0 31 feb,apr,jun *", "never comes: February, April and June have no 31st."),
        ("every 90 seconds", '"every 90 seconds": EventBridge counts in whole minutes, from 1. The nearest are "every 1 minute" or "every 2 minutes".'),
        ("every 30 seconds", 'EventBridge counts in whole minutes, from 1. The nearest is "every 1 minute".'),
        ("every second", 'The nearest is "every 1 minute".'),
        ("every 0 minutes", "an interval must be a number above 0."),
        ("every 367 days", "an interval of more than 366 days is not supported."),
        ("every 999999999999 weeks", "an interval of more than 366 days is not supported."),
        ("every fortnight", '"every fortnight" is no interval. Write "every", a whole number and minutes, hours or days'),
        ("every 1.5 hours", '"every 1.5 hours" is no interval.'),
        ("0 " * 400, "a timing of 800 characters exceeds 600."),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_rule_and_remedy(text, said):
    with pytest.raises(TimingError) as caught:
        timing.parse(text)
    assert said in str(caught.value)


class Lunar(crontab):
    """A crontab of somebody's own."""


def sunset() -> solar:
    # Its __init__ needs the package ephem.
    made = solar.__new__(solar)
    made.event, made.lat, made.lon = "sunset", 52.5, 13.4
    return made


@pytest.mark.parametrize(
    ("given_schedule", "said"),
    [
        (sunset(), "EventBridge knows no sun. The nearest is a crontab at a fixed time"),
        (Lunar(), "Lunar: only crontab, schedule, timedelta and a number of seconds can be translated"),
        (crontab(nowfun=lambda: NEW_YEAR), "has a nowfun, but EventBridge goes by its own clock."),
        (schedule(60, nowfun=lambda: NEW_YEAR), "has a nowfun"),
        (schedule(10), 'EventBridge counts in whole minutes, from 1. The nearest is "every 1 minute".'),
        (schedule(), "builtins.NoneType: only crontab"),
        (0.5, 'The nearest is "every 1 minute".'),
        (-60, "-60 seconds: an interval must be a number above 0."),
        (float("nan"), "nan seconds: an interval must be a number above 0."),
        (float("inf"), "an interval must be a number above 0."),
        (True, "builtins.bool: only crontab"),
        (timedelta(days=400), "an interval of more than 366 days is not supported."),
        ("0 8 * * *", "builtins.str: only crontab"),
    ],
)
def test_a_schedule_that_cannot_be_translated_is_refused_with_the_reason(given_schedule, said):
    with pytest.raises(TimingError) as caught:
        timing.of(given_schedule, "UTC")
    assert said in str(caught.value)


def test_an_unknown_zone_is_refused_with_the_nearest():
    with pytest.raises(TimingError, match='Did you mean "Europe/Berlin"?'):
        timing.parse("0 8 * * *", "Europe/Berln")
    with pytest.raises(TimingError, match='Did you mean "America/New_York"?'):
        timing.of(crontab(), "America/NewYork")


@given(st.text(max_size=30) | st.text("every 0123456789*/-,minuteshoursday", max_size=40))
def test_whatever_the_text_is_the_error_is_ours(text):
    try:
        made = timing.parse(text)
    except TimingError:
        return
    assert timing.parse(made.text) == made
