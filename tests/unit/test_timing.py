"""Timings: what Celery's schedules mean, and what they become at EventBridge.

Celery's own crontab is the oracle for due times, except on days when the clock is turned: there beat and EventBridge
differ, and those days have tests of their own. For the pieces the oracle is `expressions`, which
test_expressions.py holds against aws-croniter.
"""

from __future__ import annotations

import heapq
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from serverless.scheduler import expressions, timing, zones
from serverless.scheduler.pieces import Piece, Timing

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
TODAY = date(2026, 11, 28)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Santiago", "Asia/Kolkata"),
    *("Australia/Lord_Howe", "Africa/Casablanca", "Antarctica/Troll", "Pacific/Chatham", "Asia/Tokyo"),
]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "december"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "Friday", "SAT"]


def field_text(least: int, most: int, names: list[str] | None = None) -> st.SearchStrategy[str]:
    """Numbers, names, ranges that wrap, steps, and lists of all these, as Celery takes them."""
    number = st.integers(least, most)
    one = number.map(str) | st.sampled_from(names) if names else number.map(str)
    span = st.tuples(one, one).map("-".join)
    step = st.integers(1, most).map(str)
    part = one | span | st.tuples(st.just("*") | span, step).map("/".join)
    return st.just("*") | st.lists(part, min_size=1, max_size=3).map(",".join)


def field(least: int, most: int, names: list[str] | None = None) -> st.SearchStrategy[object]:
    """What else Celery takes: integers, and sets and lists of them."""
    number = st.integers(least, most)
    return (
        field_text(least, most, names)
        | number
        | st.sets(number, min_size=1, max_size=4)
        | st.lists(number, min_size=1, max_size=4)
    )


@st.composite
def crontabs(draw: st.DrawFn) -> crontab:
    """A crontab that comes; mostly not all of its fields are given."""
    given_fields = {
        "minute": draw(field(0, 59)),
        "hour": draw(st.just("*") | field(0, 23)),
        "day_of_month": draw(st.just("*") | st.sampled_from(["1-7", "8-14,22-28", "29-31", "13"]) | field(1, 31)),
        "month_of_year": draw(st.just("*") | field(1, 12, MONTHS)),
        "day_of_week": draw(st.just("*") | field(0, 6, WEEKDAYS)),
    }
    try:
        return crontab(**given_fields)
    except ValueError:  # never comes: 31 February
        return crontab(**{**given_fields, "day_of_month": "*"})


def instants() -> st.SearchStrategy[datetime]:
    seconds = st.integers(0, 730 * 86_400)
    return seconds.map(lambda number: NEW_YEAR + timedelta(seconds=number))


@cache
def app_in(zone: str) -> Celery:
    app = Celery(set_as_current=False)
    app.conf.timezone = zone
    return app


def as_beat_walks(given_crontab: crontab, zone: str, after: datetime, count: int) -> list[datetime]:
    """The due times that beat would find, by Celery's own `remaining_estimate`."""
    now = after
    walked = crontab(*given_crontab.__reduce__()[1], app=app_in(zone), nowfun=lambda: now)
    found = []
    for _ in range(count):
        now += walked.remaining_estimate(now)
        found.append(now.astimezone(UTC))
    return found


def means_what_celery_means(given_crontab: crontab, zone: str, after: datetime) -> None:
    """From an instant to the next turn of the clock, for two years, or forty due times."""
    turns = [turn.at for year in range(after.year, after.year + 3) for turn in zones.turns(zone, year)]
    if any(abs(turn - after) < 2 * DAY for turn in turns):
        after += 4 * DAY
    until = min([turn - DAY for turn in turns if turn > after] + [after + 730 * DAY])
    expected = [due for due in as_beat_walks(given_crontab, zone, after, 40) if due <= until]
    assert list(islice(timing.of(given_crontab, zone).times(after, until), len(expected) + 1))[:40] == expected


@settings(max_examples=300, deadline=None)
@given(crontabs(), instants())
def test_a_crontab_is_due_when_celery_says(given_crontab, after):
    means_what_celery_means(given_crontab, "UTC", after)


@settings(max_examples=300, deadline=None)
@given(crontabs(), st.sampled_from(ZONES), instants())
def test_a_crontab_is_due_by_its_zones_clock(given_crontab, zone, after):
    means_what_celery_means(given_crontab, zone, after)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None)
@given(crontabs(), st.sampled_from(ZONES), instants())
def test_ten_thousand_crontabs_are_due_when_celery_says(given_crontab, zone, after):
    means_what_celery_means(given_crontab, zone, after)


def fired(pieces: tuple[Piece, ...], after: datetime, until: datetime):
    """When EventBridge fires; a rate's StartDate is the next of its grid, as the sync gives it."""
    read = [expressions.parse(piece.expression, piece.zone, piece.anchor) for piece in pieces]
    return heapq.merge(*(each.times(after, until) for each in read))


def pieces_make_the_timing(made: Timing, today: date) -> None:
    """From midnight of that day until the year after next ends: at some places, among them every turn of the clock."""
    pieces = made.pieces(today)
    assert pieces
    assert all(len(piece.expression) <= expressions.LONGEST for piece in pieces)
    start = datetime(today.year, today.month, today.day, tzinfo=UTC)
    end = datetime(today.year + 2, 12, 30, tzinfo=UTC)
    turns = [turn.at for year in range(today.year, today.year + 3) for turn in zones.turns(made.zone, year)]
    for after in [start - MINUTE, *(turn - DAY for turn in turns if turn - DAY > start), end - 20 * DAY]:
        expected = list(islice(made.times(after, end), 60))
        assert list(islice(fired(pieces, after, end), 60)) == expected, (made, after)
        # A day and a half of the most frequent would be many; near the turn itself look at each.
        closely = after + DAY - 2 * HOUR, after + DAY + 3 * HOUR
        assert list(fired(pieces, *closely)) == list(made.times(*closely)), (made, after)


days = st.dates(date(2026, 1, 1), date(2028, 12, 31))


@settings(max_examples=300, deadline=None)
@given(crontabs(), st.sampled_from(ZONES), days)
def test_the_pieces_of_a_crontab_fire_when_it_is_due(given_crontab, zone, today):
    pieces_make_the_timing(timing.of(given_crontab, zone), today)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None)
@given(crontabs(), st.sampled_from(ZONES), days)
def test_the_pieces_of_ten_thousand_crontabs_fire_when_they_are_due(given_crontab, zone, today):
    pieces_make_the_timing(timing.of(given_crontab, zone), today)


minutes_of_intervals = st.sampled_from([n for n in range(1, 1441) if 1440 % n == 0]) | st.integers(1, 366 * 1440)


@settings(deadline=None)
@given(minutes_of_intervals, days)
def test_an_interval_is_due_at_whole_intervals_since_1970_and_its_pieces_agree(minutes, today):
    made = timing.parse(f"every {minutes} minutes", "Europe/Berlin")
    for due in made.next(NEW_YEAR, 5):
        assert (due - EPOCH) % (minutes * MINUTE) == timedelta(0)
    assert made.next(NEW_YEAR, 2)[1] - made.next(NEW_YEAR, 1)[0] == minutes * MINUTE
    pieces_make_the_timing(made, today)


@given(minutes_of_intervals, instants())
def test_whoever_starts_a_rate_whenever_gives_it_the_same_times(minutes, now):
    (piece, *_) = timing.parse(f"every {minutes} minutes").pieces(TODAY)
    if piece.anchor is None:
        return
    start = EPOCH + -((EPOCH - now) // (minutes * MINUTE)) * minutes * MINUTE
    later = start + 3 * minutes * MINUTE
    started = expressions.parse(piece.expression, piece.zone, start)
    anchored = expressions.parse(piece.expression, piece.zone, piece.anchor)
    assert list(started.times(start - MINUTE, later)) == list(anchored.times(start - MINUTE, later))


@settings(deadline=None)
@given(crontabs(), st.sampled_from(ZONES))
def test_a_timings_text_gives_the_same_timing_again(given_crontab, zone):
    made = timing.of(given_crontab, zone)
    again = timing.parse(made.text, made.zone)
    assert again == made
    assert again.text == made.text
    assert again.next(NEW_YEAR, 5) == made.next(NEW_YEAR, 5)


TEXTS = st.tuples(
    field_text(0, 59),
    field_text(0, 23),
    st.just("*") | field_text(1, 28),
    field_text(1, 12, MONTHS),
    field_text(0, 6, WEEKDAYS),
)


@given(TEXTS)
def test_a_text_is_read_as_celery_reads_it_and_kept_as_it_was_written(fields):
    minute, hour, day_of_month, month, day_of_week = fields
    celerys = crontab(minute, hour, day_of_week, day_of_month, month)
    made = timing.of(celerys, "UTC")
    assert made.text == " ".join(fields)
    assert (made.minutes, made.hours, made.days_of_month) == (celerys.minute, celerys.hour, celerys.day_of_month)
    assert (made.months, made.days_of_week) == (celerys.month_of_year, celerys.day_of_week)


@pytest.mark.parametrize(
    ("given_schedule", "text"),
    [
        (crontab(), "* * * * *"),
        (crontab(minute=0, hour="8", day_of_week="Mon-FRI"), "0 8 * * Mon-FRI"),
        (crontab(minute={45, 0}, hour=[17, 9]), "0,45 9,17 * * *"),
        (crontab(minute="0, 30", hour="*/8, 5"), "0,30 */8,5 * * *"),
        (crontab(0, 8, "mon", "1-7", "*/3"), "0 8 1-7 */3 mon"),
        (crontab(minute=range(60)), "* * * * *"),
        # What Celery reads and was hardly meant becomes what Celery makes of it.
        (crontab(minute="*/90"), "0 * * * *"),
        (crontab(minute="1-3!"), "1,2,3 * * * *"),
        (crontab(minute=",".join(["7"] * 200)), "7 * * * *"),
        (schedule(5400), "every 90 minutes"),
        (timedelta(hours=2), "every 2 hours"),
        (60, "every 1 minute"),
        (86400.0, "every 1 day"),
        (timedelta(days=366), "every 366 days"),
    ],
)
def test_what_stands_in_a_beat_schedule_has_one_text(given_schedule, text):
    assert timing.of(given_schedule, "UTC").text == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("every minute", "every 1 minute"),
        ("Every 60 minutes", "every 1 hour"),
        ("every 120 seconds", "every 2 minutes"),
        ("every 1 days", "every 1 day"),
        ("every 2 weeks", "every 14 days"),
        ("  0   8 * * mon ", "0 8 * * mon"),
    ],
)
def test_what_people_write_has_one_text(written, text):
    assert timing.parse(written).text == text


def of(text: str, zone: str = "UTC") -> list[str]:
    """The pieces, each as its expression and, unless it is the timing's own, its zone."""
    made = timing.parse(text, zone)
    return [
        piece.expression
        + ("" if piece.zone == zone else f" {piece.zone}")
        + (f" {piece.anchor:%Y}" if piece.anchor else "")
        for piece in made.pieces(TODAY)
    ]


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("0 8 * * mon", "Europe/Berlin", ["cron(0 8 ? * MON *)"]),
        ("*/15 8-17 * * mon-fri", "Europe/Berlin", ["cron(0/15 8-17 ? * MON-FRI *)"]),
        ("0 0 1,15 */3 *", "UTC", ["cron(0 0 1,15 1/3 ? *)"]),
        ("0 0 * * sun,sat", "UTC", ["cron(0 0 ? * SUN,SAT *)"]),
        # "And", by weeks: one # in an expression.
        ("0 9 1-7 * mon", "UTC", ["cron(0 9 ? * MON#1 *)"]),
        ("0 9 1-7,15-21 * mon,tue", "UTC", ["cron(0 9 ? * MON#1 *)", "cron(0 9 ? * TUE#1 *)", "cron(0 9 ? * MON#3 *)", "cron(0 9 ? * TUE#3 *)"]),
        ("0 9 29-31 * fri", "UTC", ["cron(0 9 ? * FRI#5 *)"]),
        ("0 9 29 2 fri", "UTC", ["cron(0 9 ? 2 FRI#5 *)"]),
        # "And", by date: 2026's are over, and 2027 and 2028 have one Friday the 13th each.
        ("0 9 13 * fri", "UTC", ["cron(0 9 13 8 ? 2027)", "cron(0 9 13 10 ? 2028)"]),
        # Comes next beyond the years that are looked ahead.
        ("0 9 30 6 tue", "UTC", ["cron(0 9 30 6 ? 2037)"]),
        # Every day of a month that has no more.
        ("0 9 1-30 4 mon", "UTC", ["cron(0 9 ? 4 MON *)"]),
        # Every hour, in a zone whose clock is turned by whole hours: UTC has no second pass to miss.
        ("*/20 * * * *", "Europe/Berlin", ["cron(0/20 * * * ? *) UTC"]),
        ("0 * * * *", "America/St_Johns", ["cron(30 * * * ? *) UTC"]),
        ("0 * * * *", "Asia/Kolkata", ["cron(0 * * * ? *)"]),
        # Not every hour, but at those around the repeated one: its second pass, by date, in UTC.
        ("*/30 1-5 * * *", "Europe/Berlin", ["cron(0,30 1-5 * * ? *)", "cron(0,30 1 31 10 ? 2027) UTC", "cron(0,30 1 29 10 ? 2028) UTC"]),
        ("*/30 2-5 * * *", "Europe/Berlin", ["cron(0,30 2-5 * * ? *)"]),
        ("*/30 * * * *", "Australia/Lord_Howe", ["cron(0,30 * * * ? *)", "cron(0 15 3 4 ? 2027) UTC", "cron(0 15 1 4 ? 2028) UTC"]),
        ("every 1 minute", "UTC", ["cron(* * * * ? *)"]),
        ("every 15 minutes", "Europe/Berlin", ["cron(0/15 * * * ? *) UTC"]),
        ("every 6 hours", "UTC", ["cron(0 0/6 * * ? *)"]),
        ("every 1 day", "UTC", ["cron(0 0 * * ? *)"]),
        ("every 90 minutes", "UTC", ["cron(0 0/3 * * ? *)", "cron(30 1/3 * * ? *)"]),
        ("every 7 minutes", "UTC", ["rate(7 minutes) 1970"]),
        ("every 5 hours", "UTC", ["rate(5 hours) 1970"]),
        ("every 2 days", "UTC", ["rate(2 days) 1970"]),
    ],
)  # fmt: skip
def test_pieces(text, zone, expected):
    assert of(text, zone) == expected


def test_no_interval_needs_many_pieces():
    counts = [len(timing.parse(f"every {minutes} minutes").pieces(TODAY)) for minutes in range(1, 1441)]
    assert max(counts) == 8


def test_pieces_that_are_over_are_left_out_and_their_last_day_still_has_them():
    made = timing.parse("0 9 13 * fri")
    assert made.pieces(date(2026, 11, 13))[0] == Piece("cron(0 9 13 2,3,11 ? 2026)", "UTC")
    assert made.pieces(date(2026, 11, 14))[0] == Piece("cron(0 9 13 8 ? 2027)", "UTC")


def test_new_year_in_utc_does_not_end_the_old_year_of_a_zone_behind():
    made = timing.parse("0 22 30-31 12 thu", "America/New_York")  # 31 December 2026, 03:00Z on 1 January
    assert made.pieces(date(2027, 1, 1))[0].expression == "cron(0 22 31 12 ? 2026)"
    assert made.pieces(date(2027, 1, 2))[0].expression == "cron(0 22 30 12 ? 2027)"


def test_the_longest_expression_is_within_eventbridges_limit():
    # Two numbers in, one out: nothing is longer to write. With a weekday missing, by date, for years with a gap.
    fields = [
        ",".join(str(each) for each in range(least, most) if each % 3 != 2)
        for least, most in ((0, 60), (0, 24), (1, 32), (1, 13))
    ]
    made = timing.parse(f"{' '.join(fields)} 0-5")
    assert 200 < max(len(piece.expression) for piece in made.pieces(TODAY)) <= expressions.LONGEST


def shown(text: str, zone: str, first: str, last: str) -> list[str]:
    """The due times between two local times, by the zone's clock, those of a second pass with a stroke."""
    ends = (datetime.fromisoformat(end).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for end in (first, last))
    local = [due.astimezone(ZoneInfo(zone)) for due in timing.parse(text, zone).times(*ends)]
    return [f"{each:%H:%M}" + ("'" if each.fold else "") for each in local]


@pytest.mark.parametrize(
    ("text", "zone", "first", "last", "expected"),
    [
        # Berlin, 25 October 2026: 03:00 becomes 02:00.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:00", "2026-10-25T12:00", ["02:30"]),
        ("0 2,8 * * *", "Europe/Berlin", "2026-10-25T00:00", "2026-10-25T12:00", ["02:00", "08:00"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T04:00", ["01:00", "02:00", "02:00'", "03:00", "04:00"]),
        ("0 1-3 * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T04:00", ["01:00", "02:00", "02:00'", "03:00"]),
        ("0 2-3 * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T04:00", ["02:00", "03:00"]),
        ("0 1-2 * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T04:00", ["01:00", "02:00"]),
        # Every two hours is no "hourly or more frequent".
        ("0 0,2,3,4 * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T04:00", ["02:00", "03:00", "04:00"]),
        ("0 0,1,2,4 * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T04:00", ["01:00", "02:00", "04:00"]),
        ("*/30 * * * sun", "Europe/Berlin", "2026-10-25T01:15", "2026-10-25T03:00", ["01:30", "02:00", "02:30", "02:00'", "02:30'", "03:00"]),
        ("*/30 * * * mon", "Europe/Berlin", "2026-10-25T01:15", "2026-10-25T03:00", []),
        # Berlin, 29 March 2026: 02:00 becomes 03:00.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T12:00", []),
        ("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", "2026-03-29T04:00", ["01:00", "03:00", "04:00"]),
        # New York, 1 November 2026: 02:00 becomes 01:00. 8 March: 02:00 becomes 03:00.
        ("*/30 * * * *", "America/New_York", "2026-11-01T00:15", "2026-11-01T02:00", ["00:30", "01:00", "01:30", "01:00'", "01:30'", "02:00"]),
        ("*/30 0-6 * * *", "America/New_York", "2026-11-01T00:15", "2026-11-01T02:00", ["00:30", "01:00", "01:30", "01:00'", "01:30'", "02:00"]),
        ("15 1 * * *", "America/New_York", "2026-11-01T00:00", "2026-11-01T12:00", ["01:15"]),
        ("0,15 2 * * *", "America/New_York", "2026-03-08T00:00", "2026-03-08T12:00", []),
        ("*/30 * * * *", "America/New_York", "2026-03-08T01:15", "2026-03-08T03:30", ["01:30", "03:00", "03:30"]),
        # Lord Howe, by half an hour. 5 April 2026: 02:00 becomes 01:30. 4 October: 02:00 becomes 02:30.
        ("*/15 * * * *", "Australia/Lord_Howe", "2026-04-05T01:15", "2026-04-05T02:00", ["01:30", "01:45", "01:30'", "01:45'", "02:00"]),
        ("0 * * * *", "Australia/Lord_Howe", "2026-04-05T00:30", "2026-04-05T03:00", ["01:00", "02:00", "03:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05T00:00", "2026-04-05T12:00", ["01:45"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04T00:00", "2026-10-04T12:00", []),
        ("*/15 * * * *", "Australia/Lord_Howe", "2026-10-04T01:30", "2026-10-04T02:45", ["01:45", "02:30", "02:45"]),
        # Troll, by two hours. 25 October 2026: 03:00 becomes 01:00.
        ("0 * * * *", "Antarctica/Troll", "2026-10-25T00:30", "2026-10-25T03:00", ["01:00", "02:00", "01:00'", "02:00'", "03:00"]),
    ],
)  # fmt: skip
def test_days_on_which_the_clock_is_turned(text, zone, first, last, expected):
    assert shown(text, zone, first, last) == expected


@pytest.mark.parametrize(
    ("given_crontab", "after", "by_beat", "here"),
    [
        (crontab(30, 2), "2026-03-28T12:00", ["29 03:30", "30 02:30"], ["30 02:30", "31 02:30"]),
        (crontab(30, 2), "2026-10-24T12:00", ["25 02:30", "26 02:30"], ["25 02:30", "26 02:30"]),
        (crontab(0), "2026-10-25T01:30", ["25 02:00", "25 03:00"], ["25 02:00", "25 02:00'"]),
    ],
)
def test_what_differs_from_beat_when_the_clock_is_turned(given_crontab, after, by_beat, here):
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime.fromisoformat(after).replace(tzinfo=berlin).astimezone(UTC)
    told = []
    for walk in (
        as_beat_walks(given_crontab, berlin.key, start, 2),
        timing.of(given_crontab, berlin.key).next(start, 2),
    ):
        local = [due.astimezone(berlin) for due in walk]
        told.append([f"{each:%d %H:%M}" + ("'" if each.fold else "") for each in local])
    assert told == [by_beat, here]


def test_a_second_pass_is_due_in_every_year_to_come():
    made = timing.parse("*/30 1-5 * * *", "Europe/Berlin")
    for year in (2030, 2055):
        (turn,) = (turn for turn in zones.turns("Europe/Berlin", year) if turn.repeats)
        assert list(made.times(turn.at - MINUTE, turn.at + HOUR)) == [turn.at, turn.at + 30 * MINUTE, turn.at + HOUR]


def test_next_ends_with_the_last_year_of_eventbridge():
    assert timing.parse("0 0 31 12 *").next(datetime(2198, 1, 1, tzinfo=UTC), 5) == [
        datetime(2198, 12, 31, tzinfo=UTC),
        datetime(2199, 12, 31, tzinfo=UTC),
    ]
    assert timing.parse("every 12 hours").next(datetime(2199, 12, 31, 1, tzinfo=UTC), 5) == [
        datetime(2199, 12, 31, 12, tzinfo=UTC)
    ]


@pytest.mark.parametrize("text", ["*/30 1-5 * * *", "every 7 minutes"])
def test_nothing_is_due_after_the_last_year_of_eventbridge(text):
    assert (
        list(
            timing.parse(text, "Europe/Berlin").times(
                datetime(2200, 1, 1, tzinfo=UTC), datetime(2202, 1, 1, tzinfo=UTC)
            )
        )
        == []
    )
