"""EventBridge's expressions: which are read, and when they fire.

aws-croniter is the oracle for UTC. For zones it is the clock itself, minute by minute, around each of its turns.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from aws_croniter import AwsCroniter
from hypothesis import given, settings
from hypothesis import strategies as st

from serverless.scheduler import zones
from serverless.scheduler.errors import ExpressionError
from serverless.scheduler.expressions import parse

TWO_YEARS = timedelta(days=730)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Santiago", "Asia/Kolkata"),
    *("Australia/Lord_Howe", "Africa/Casablanca", "Antarctica/Troll", "Pacific/Chatham", "Pacific/Apia"),
]


def numbers(least: int, most: int, names: list[str] | None = None, *, steps: bool = True) -> st.SearchStrategy[str]:
    """One field: *, numbers and names, ranges that may wrap, steps, lists of all these."""
    one = st.integers(least, most).map(str)
    if names:
        one |= st.sampled_from(names)
    part = one | st.tuples(one, one).map("-".join)
    if steps:
        stepped = (st.just("*") | one | st.tuples(one, one).map("-".join), st.integers(1, most).map(str))
        part |= st.tuples(*stepped).map("/".join)
    return st.just("*") | st.lists(part, min_size=1, max_size=3).map(",".join)


def crons(years: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[str]:
    """cron() expressions in the forms that aws-croniter knows too."""
    of_month = (
        numbers(1, 31) | st.just("L") | st.integers(1, 30).map("L-{}".format) | st.integers(1, 31).map("{}W".format)
    )
    weekday = st.integers(1, 7).map(str) | st.sampled_from(WEEKDAYS)
    of_week = (
        numbers(1, 7, WEEKDAYS, steps=False)
        | weekday.map("{}L".format)
        | st.tuples(weekday, st.integers(1, 5).map(str)).map("#".join)
    )
    days = st.tuples(of_month, st.just("?")) | st.tuples(st.just("?"), of_week)
    some_years = years or st.just("*") | st.lists(st.integers(2025, 2029).map(str), min_size=1, max_size=3).map(
        ",".join
    )
    fields = st.tuples(numbers(0, 59), numbers(0, 23), days, numbers(1, 12, MONTHS), some_years)
    return fields.map(lambda each: f"cron({each[0]} {each[1]} {each[2][0]} {each[3]} {each[2][1]} {each[4]})")


def instants() -> st.SearchStrategy[datetime]:
    # Whole seconds: aws-croniter rounds.
    seconds = st.integers(0, TWO_YEARS // timedelta(seconds=1))
    return seconds.map(lambda number: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number))


def agrees_with_aws_croniter(text: str, after: datetime) -> None:
    until = after + TWO_YEARS
    oracle = AwsCroniter(text[5:-1]).get_next(after, n=40)
    expected = [instant for instant in oracle if instant is not None and instant <= until]
    ours = list(islice(parse(text).times(after, until), 40))
    # The oracle gives up after ten steps of its own; what it found must be all the same.
    assert ours[: len(expected)] == expected, text
    assert len(ours) == len(expected) or oracle[len(expected)] is None, text
    if len(ours) > len(expected):
        assert ours[len(expected)] - (expected or [after])[-1] > timedelta(days=200), text


@settings(max_examples=400, deadline=None)
@given(crons(), instants())
def test_an_expression_fires_when_aws_croniter_says(text, after):
    agrees_with_aws_croniter(text, after)


@pytest.mark.nightly
@settings(max_examples=20_000, deadline=None)
@given(crons(), instants())
def test_twenty_thousand_expressions_fire_when_aws_croniter_says(text, after):
    agrees_with_aws_croniter(text, after)


def agrees_with_the_clock(text: str, zone: str, near: datetime) -> None:
    """Around an instant, each minute fires if the zone's clock shows, for the first time, what the expression means."""
    first, last = near - timedelta(hours=30), near + timedelta(hours=30)
    minutes = [first + timedelta(minutes=number) for number in range(1, 3601)]
    clock = {instant: instant.astimezone(ZoneInfo(zone)) for instant in minutes}
    shown = [local.replace(tzinfo=UTC) for local in clock.values()]
    meant = set(parse(text).times(min(shown) - timedelta(minutes=1), max(shown)))
    expected = [
        instant for instant in minutes if not clock[instant].fold and clock[instant].replace(tzinfo=UTC) in meant
    ]
    assert list(parse(text, zone).times(first, last)) == expected, (text, zone)


def turns() -> st.SearchStrategy[tuple[str, datetime]]:
    found = [(zone, turn.at) for zone in ZONES for year in (2011, 2026, 2027) for turn in zones.turns(zone, year)]
    return st.sampled_from(found)


#: Frequent enough to have something to say about one day and a half.
FREQUENT = st.tuples(
    st.sampled_from(["0", "30", "0/10", "0/15", "1-59/7", "*"]),
    numbers(0, 23),
    st.sampled_from(["* * ?", "? * SAT-MON"]),
).map(lambda each: f"cron({' '.join(each)} *)")


@settings(max_examples=60, deadline=None)
@given(FREQUENT, turns())
def test_a_local_time_that_is_leapt_over_is_skipped_and_one_that_repeats_fires_once(text, turn):
    agrees_with_the_clock(text, *turn)


@pytest.mark.nightly
@settings(max_examples=3000, deadline=None)
@given(FREQUENT, turns())
def test_three_thousand_expressions_follow_the_clock_around_its_turns(text, turn):
    agrees_with_the_clock(text, *turn)


def local_days(text: str, first: str, last: str, zone: str = "UTC") -> list[str]:
    """When it fires from one local midnight until before another, as "11-30 08:00" by the zone's clock."""
    after, until = (datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for day in (first, last))
    fired = parse(text, zone).times(after - timedelta(minutes=1), until - timedelta(minutes=1))
    return [f"{instant.astimezone(ZoneInfo(zone)):%m-%d %H:%M}" for instant in fired]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cron(0 9 L * ? *)", ["01-31", "02-28", "03-31", "04-30"]),
        ("cron(0 9 L-3 * ? *)", ["01-28", "02-25", "03-28", "04-27"]),
        ("cron(0 9 LW * ? *)", ["01-30", "02-27", "03-31", "04-30"]),
        ("cron(0 9 15W * ? *)", ["01-15", "02-16", "03-16", "04-15"]),
        ("cron(0 9 1W * ? *)", ["01-01", "02-02", "03-02", "04-01"]),
        ("cron(0 9 31W * ? *)", ["01-30", "03-31"]),
        ("cron(0 9 ? * 2#1 *)", ["01-05", "02-02", "03-02", "04-06"]),
        ("cron(0 9 ? * fri#5 *)", ["01-30"]),
        ("cron(0 9 ? * 6L *)", ["01-30", "02-27", "03-27", "04-24"]),
        ("cron(0 9 ? 2 L *)", ["02-07", "02-14", "02-21", "02-28"]),
        (
            "cron(0 9 ? APR SAT-MON *)",
            [
                "04-04",
                "04-05",
                "04-06",
                "04-11",
                "04-12",
                "04-13",
                "04-18",
                "04-19",
                "04-20",
                "04-25",
                "04-26",
                "04-27",
            ],
        ),
        ("cron(0 9 29 2 ? 2026)", []),
    ],
)
def test_the_days_that_letters_mean(text, expected):
    assert local_days(text, "2026-01-01", "2026-05-01") == [f"{day} 09:00" for day in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cron(0 9 1W 8 ? *)", "08-03"),  # Saturday, and Friday is in July
        ("cron(0 9 31W 5 ? *)", "05-29"),  # Sunday, and Monday is in June
        ("cron(0 9 LW 2 ? *)", "02-27"),  # Saturday
    ],
)
def test_the_nearest_workday_stays_in_its_month(text, expected):
    assert local_days(text, "2026-01-01", "2027-01-01") == [f"{expected} 09:00"]


@pytest.mark.parametrize(
    ("zone", "text", "day", "expected"),
    [
        # 02:00 becomes 03:00 on 29 March 2026, 03:00 becomes 02:00 on 25 October.
        ("Europe/Berlin", "cron(30 1-3 * * ? *)", "2026-03-29", ["03-29 01:30", "03-29 03:30"]),
        ("Europe/Berlin", "cron(30 1-3 * * ? *)", "2026-10-25", ["10-25 01:30", "10-25 02:30", "10-25 03:30"]),
        # 02:00 becomes 03:00 on 8 March, 02:00 becomes 01:00 on 1 November.
        ("America/New_York", "cron(0 2 * * ? *)", "2026-03-08", []),
        ("America/New_York", "cron(0/30 0-2 * * ? *)", "2026-11-01", ["11-01 00:00", "11-01 00:30", "11-01 01:00", "11-01 01:30", "11-01 02:00", "11-01 02:30"]),
        # Half an hour: 02:00 becomes 02:30 on 4 October, 02:00 becomes 01:30 on 5 April.
        ("Australia/Lord_Howe", "cron(15,45 1-2 * * ? *)", "2026-10-04", ["10-04 01:15", "10-04 01:45", "10-04 02:45"]),
        ("Australia/Lord_Howe", "cron(15,45 1-2 * * ? *)", "2026-04-05", ["04-05 01:15", "04-05 01:45", "04-05 02:15", "04-05 02:45"]),
        # Samoa went from 29 to 31 December 2011.
        ("Pacific/Apia", "cron(0 12 * * ? *)", "2011-12-30", []),
    ],
)  # fmt: skip
def test_days_on_which_the_clock_is_turned(zone, text, day, expected):
    next_day = (datetime.fromisoformat(day) + timedelta(days=1)).isoformat()
    assert local_days(text, day, next_day, zone) == expected


def test_the_repeated_time_is_the_first_of_the_two():
    after = datetime(2026, 10, 24, 12, tzinfo=UTC)
    fired = next(parse("cron(30 2 * * ? *)", "Europe/Berlin").times(after, after + TWO_YEARS))
    assert fired == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # the second is at 01:30Z


def test_the_beginning_is_left_out_and_the_end_is_in():
    eight = datetime(2026, 11, 30, 8, tzinfo=UTC)
    daily = parse("cron(0 8 * * ? *)")
    assert list(daily.times(eight, eight + timedelta(days=1))) == [eight + timedelta(days=1)]
    assert list(daily.times(eight - timedelta(microseconds=1), eight)) == [eight]
    assert list(daily.times(eight, eight)) == []


def test_a_rate_counts_from_its_start_in_real_time():
    start = datetime(2026, 3, 28, 1, 30, 40, tzinfo=UTC)
    daily = parse("rate(1 day)", "Europe/Berlin", start)
    fired = list(daily.times(start - timedelta(days=9), start + timedelta(days=2)))
    assert fired == [start.replace(second=0) + timedelta(days=number) for number in range(3)]


@given(st.integers(2, 10**9), st.sampled_from(["minutes", "hours", "days"]), instants(), instants())
def test_a_rate_fires_at_whole_intervals_and_at_no_other_time(number, unit, start, after):
    rate = parse(f"rate({number} {unit})", start=start)
    minutes = number * {"minutes": 1, "hours": 60, "days": 1440}[unit]
    begin = start.replace(second=0, microsecond=0)
    fired = list(islice(rate.times(after, after + TWO_YEARS), 3))
    assert all((each - begin).total_seconds() % (60 * minutes) == 0 and each > after for each in fired)
    assert fired or after + TWO_YEARS - max(after, begin) < timedelta(minutes=min(minutes, 10**7))


@pytest.mark.parametrize(
    ("zone", "text", "expected"),
    [
        ("UTC", "at(2026-11-30T08:00:30)", [datetime(2026, 11, 30, 8, 0, 30, tzinfo=UTC)]),
        ("Europe/Berlin", "at(2026-11-30T08:00:00)", [datetime(2026, 11, 30, 7, tzinfo=UTC)]),
        ("Europe/Berlin", "at(2026-10-25T02:30:00)", [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]),
        ("Europe/Berlin", "at(2026-03-29T02:30:00)", []),
    ],
)
def test_an_at_fires_once_by_the_zones_clock(zone, text, expected):
    assert list(parse(text, zone).times(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))) == expected


def test_an_at_outside_the_asked_time_is_not_told():
    once = parse("at(2026-11-30T08:00:00)")
    moment = datetime(2026, 11, 30, 8, tzinfo=UTC)
    assert list(once.times(moment - timedelta(minutes=1), moment)) == [moment]
    assert list(once.times(moment, moment + TWO_YEARS)) == []
    assert list(once.times(moment - TWO_YEARS, moment - timedelta(seconds=1))) == []


def test_a_rare_expression_is_walked_by_the_day(monkeypatch):
    asked = []
    real = zones.turns
    monkeypatch.setattr(zones, "turns", lambda zone, year: asked.append(year) or real(zone, year))
    monthly = parse("cron(0 8 1 * ? *)", "Europe/Berlin")
    start = datetime(2026, 1, 2, tzinfo=UTC)
    assert len(list(monthly.times(start, start + TWO_YEARS))) == 24
    assert len(asked) < 60  # at most two for each day that it fires on


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 8 * * ? *", '"0 8 * * ? *" is no EventBridge expression. Write cron(...), rate(...) or at(...)'),
        ("cron(0 8 * * ?)", "5 fields; EventBridge has 6: minute, hour, day-of-month, month, day-of-week, year."),
        ("cron(0 8 * * * *)", "EventBridge wants ? in exactly one of them."),
        ("cron(0 8 ? * ? *)", "EventBridge wants ? in exactly one of them."),
        ("cron(0 8 1 * MON *)", "EventBridge wants ? in exactly one of them."),
        ("cron(60 8 * * ? *)", 'minute "60": 60 is outside 0 to 59. Correct it.'),
        ("cron(? 8 * * ? *)", 'minute "?": "?" is not a number.'),
        ("cron(0 8,24 * * ? *)", 'hour "8,24": 24 is outside 0 to 23.'),
        ("cron(0 8, * * ? *)", 'hour "8,": "" is not a number.'),
        ("cron(*/0 8 * * ? *)", 'minute "*/0": the step "0" must be a whole number, 1 to 60.'),
        ("cron(0/61 8 * * ? *)", 'the step "61" must be a whole number, 1 to 60.'),
        ("cron(0 8 32 * ? *)", 'day-of-month "32": 32 is outside 1 to 31.'),
        ("cron(0 8 0W * ? *)", 'day-of-month "0W": 0 is outside 1 to 31.'),
        ("cron(0 8 L-31 * ? *)", "L- takes 1 to 30 days before the month's last"),
        ("cron(0 8 1,L * ? *)", "L and W stand alone"),
        ("cron(0 8 ? * MON#1,FRI#3 *)", "# takes one weekday and 1 to 5, such as 2#1, and stands in no list"),
        ("cron(0 8 ? * MON#6 *)", "# takes one weekday and 1 to 5"),
        ("cron(0 8 ? * 0 *)", 'day-of-week "0": 0 is outside 1 to 7.'),
        ("cron(0 8 ? * MO *)", 'day-of-week "MO": "MO" is not a number or SUN-SAT.'),
        ("cron(0 8 ? * 2/2 *)", "EventBridge knows no steps (/) in this field; list the values."),
        ("cron(0 8 * 13 ? *)", 'month "13": 13 is outside 1 to 12.'),
        ("cron(0 8 * * ? 1969)", 'year "1969": 1969 is outside 1970 to 2199.'),
        ("cron(0 8 * * ? 2030-2026)", 'year "2030-2026": the range 2030-2026 runs backwards.'),
        ("rate(5 minute)", "singular for 1 and the plural otherwise. Write rate(5 minutes)."),
        ("rate(1 hours)", "Write rate(1 hour)."),
        ("rate(0 minutes)", "a rate is a whole number, 1 or more"),
        ("rate(5 seconds)", "a rate is a whole number, 1 or more, and minutes, hours or days."),
        ("rate(5 minutes)", "a rate counts from a start."),
        ("at(2026-02-30T08:00:00)", '"2026-02-30T08:00:00" is not a date and time.'),
        ("at(2026-11-30)", "Write yyyy-mm-ddThh:mm:ss"),
        (f"cron({'0,' * 130}0 8 * * ? *)", "exceeds 256, EventBridge's limit."),
    ],
)
def test_a_fault_is_named_with_its_rule_and_remedy(text, said):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("Europe/Berln", 'time zone "Europe/Berln" is not in the IANA database. Did you mean "Europe/Berlin"?'),
        ("europe/berlin", 'Did you mean "Europe/Berlin"?'),
        ("localtime", "is not in the IANA database."),
        ("../etc/passwd", "is not in the IANA database."),
        ("", 'Write a name such as "Europe/Berlin" or "UTC".'),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest(zone, said):
    with pytest.raises(ExpressionError) as caught:
        parse("cron(0 8 * * ? *)", zone)
    assert said in str(caught.value)


def test_a_naive_datetime_is_refused():
    naive = datetime.fromisoformat("2026-11-30")
    with pytest.raises(ValueError, match="has no time zone"):
        list(parse("cron(0 8 * * ? *)").times(naive, naive))


@given(
    st.text(max_size=30)
    | st.text("cronate()0123456789 ?*/-,#LWMON", max_size=60)
    | st.lists(
        st.sampled_from(["0", "*", "?", "L", "MON#1", "1-5", "2/3", "W", "-", "ſUN", "٣"]), min_size=6, max_size=6
    ).map(lambda fields: f"cron({' '.join(fields)})")
)
def test_whatever_the_text_is_the_error_is_ours(text):
    try:
        expression = parse(text, start=datetime(2026, 1, 1, tzinfo=UTC))
    except ExpressionError:
        return
    assert expression.text == text


def test_digits_and_letters_of_other_scripts_are_refused():
    for text in ("cron(٣ 8 * * ? *)", "cron(0 8 ? * ſUN *)", "rate(٣ minutes)"):
        with pytest.raises(ExpressionError):
            parse(text, start=datetime(2026, 1, 1, tzinfo=UTC))
