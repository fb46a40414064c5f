"""A timing in plain English."""

from __future__ import annotations

import pytest
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from serverless.scheduler import timing
from serverless.scheduler.words import words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("every 1 minute", "every minute"),
        ("every 90 minutes", "every 90 minutes"),
        ("every 1 day", "every day"),
        # Times of a day.
        ("* * * * *", "every minute"),
        ("0 * * * *", "every hour"),
        ("1 * * * *", "every hour at 1 minute past"),
        ("*/15 * * * *", "every 15 minutes"),
        ("5-59/15 * * * *", "every 15 minutes from 5 minutes past the hour"),
        ("1,2,9 * * * *", "at 1, 2 and 9 minutes past every hour"),
        ("*/7 * * * *", "at 0, 7, 14, 21, 28, 35, 42, 49 and 56 minutes past every hour"),
        ("0 8 * * *", "every day at 08:00"),
        ("30 8,12,18 * * *", "every day at 08:30, 12:30 and 18:30"),
        ("0 8-10 * * *", "every day at 08:00, 09:00 and 10:00"),
        ("0 8-17 * * *", "every hour from 08:00 to 17:00"),
        ("*/5 8 * * *", "every 5 minutes from 08:00 to 08:55"),
        ("0 */3 * * *", "every 3 hours"),
        ("30 */3 * * *", "every 3 hours from 00:30 to 21:30"),
        ("0 */5 * * *", "every day at 00:00, 05:00, 10:00, 15:00 and 20:00"),
        ("*/20 8-10,14,20 * * *", "every 20 minutes in the hours 8 to 10, 14 and 20"),
        ("1-59/20 8-10,14,20 * * *", "every 20 minutes from 1 minute past the hour in the hours 8 to 10, 14 and 20"),
        ("1,7,9 3-6,8 * * *", "at 1, 7 and 9 minutes past the hours 3 to 6 and 8"),
        # Days.
        ("0 8 * * mon", "every Monday at 08:00"),
        ("0 8 * * sun,mon", "every Monday and Sunday at 08:00"),
        ("0 8 * * mon-fri", "on weekdays at 08:00"),
        ("*/15 8-17 * * mon-fri", "every 15 minutes from 08:00 to 17:45 on weekdays"),
        ("*/15 * * * sat,sun", "every 15 minutes on Saturdays and Sundays"),
        ("0 0 1 * *", "on the 1st of each month at 00:00"),
        ("0 0 2,3,11-13,21,22 * *", "on the 2nd, 3rd, 11th to 13th, 21st and 22nd of each month at 00:00"),
        ("*/15 * 1 * *", "every 15 minutes on the 1st of each month"),
        ("0 8 1,15 1,7 *", "on the 1st and 15th of January and July at 08:00"),
        ("0 8 * 1,7 *", "every day in January and July at 08:00"),
        ("0 8 * 1-3 mon", "every Monday from January to March at 08:00"),
        ("*/15 * * 6 *", "every 15 minutes in June"),
        # Both day fields.
        ("0 8 1-7,15-21 * mon", "on the first and third Monday of each month at 08:00"),
        ("0 8 29-31 * fri", "on the fifth Friday of each month at 08:00"),
        ("0 8 13 * fri", "on every Friday that is the 13th of a month at 08:00"),
        ("0 8 1-5,9 3 mon,tue", "on every Monday or Tuesday that is the 1st to 5th or 9th of March at 08:00"),
    ],
)
def test_words(text, said):
    assert words(timing.parse(text, "Europe/Berlin")) == said


def numbers(least: int, most: int) -> st.SearchStrategy[set[int] | str]:
    return st.just("*") | st.sets(st.integers(least, most), min_size=1)


@given(numbers(0, 59), numbers(0, 23), numbers(0, 6), numbers(1, 28), numbers(1, 12))
def test_every_crontab_has_words_and_none_stand_beside_nothing(minute, hour, day_of_week, day_of_month, month_of_year):
    told = words(timing.of(crontab(minute, hour, day_of_week, day_of_month, month_of_year), "UTC"))
    assert told == " ".join(told.split())
    assert told.startswith(("every ", "at ", "on "))
    assert not told.endswith((" at", " on", " in", " of", " from", " and"))
