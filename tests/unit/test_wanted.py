"""What a wanted schedule is called at AWS, when its rate begins, and how fast the API is asked."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.pace import OutOfTimeError, Pace
from serverless.scheduler.wanted import Wanted, prefix, prefix_of

NAIVE = datetime.fromisoformat("2026-01-01T00:00:00")
ANCHOR = datetime(1970, 1, 1, tzinfo=UTC)
REPORT = Wanted(
    logical="report",
    expression="rate(7 hours)",
    zone="UTC",
    anchor=ANCHOR,
    target_arn="arn:aws:sqs:us-east-1:123456789012:cloudqueue-default",
    input="{}",
    role_arn="arn:aws:iam::123456789012:role/cloudqueue",
    dead_letter_arn="arn:aws:sqs:us-east-1:123456789012:cloudqueue-schedules-dead",
    window_minutes=0,
    ends_at=None,
    max_age_seconds=3600,
    max_retries=10,
    description="",
)
MOMENTS = st.integers(0, 20 * 366 * 86400).map(
    lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@given(st.text(max_size=200))
def test_any_logical_name_becomes_a_name_that_aws_takes(logical):
    name = replace(REPORT, logical=logical).name
    assert re.fullmatch(r"[0-9a-zA-Z\-_.]{1,64}", name)
    assert name.startswith(prefix(logical))
    assert prefix_of(name) == prefix(logical)


@given(st.text(max_size=60), st.text(max_size=60))
def test_two_logical_schedules_share_no_prefix(one, other):
    assert (prefix(one) == prefix(other)) == (one == other)
    assert one == other or not prefix(one).startswith(prefix(other))


def test_a_name_says_what_it_is_of():
    assert prefix("Mail the report, mondays").startswith("Mail-the-report-mondays-")
    assert prefix("месячный").startswith("schedule-")


def test_a_time_is_the_same_in_any_zone_and_so_is_the_name():
    moved = replace(REPORT, anchor=ANCHOR.astimezone(timezone(timedelta(hours=5))))
    assert moved.name == REPORT.name


@given(MOMENTS, st.integers(1, 525_600))
def test_a_rate_begins_at_the_next_point_of_its_grid(now, minutes):
    one = replace(REPORT, expression=f"rate({minutes} minute{'s' if minutes > 1 else ''})")
    start = one.starts_at(now)
    assert (start - ANCHOR) % timedelta(minutes=minutes) == timedelta(0)
    assert timedelta(0) < start - now <= timedelta(minutes=minutes)
    assert not one.is_over(now)
    assert replace(one, ends_at=start - timedelta(seconds=1)).is_over(now)
    assert not replace(one, ends_at=start).is_over(now)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"anchor": NAIVE}, 'schedule "report": anchor=2026-01-01T00:00:00 has no time zone.'),
        ({"ends_at": NAIVE}, 'schedule "report": ends_at=2026-01-01T00:00:00 has no time zone.'),
        ({"window_minutes": 1441}, 'schedule "report": window_minutes=1441 is not within 0 and 1440 minutes'),
        ({"max_age_seconds": 59}, 'schedule "report": max_age_seconds=59 is not within 60 and 86400 seconds'),
        ({"max_retries": 186}, 'schedule "report": max_retries=186 is not within 0 and 185 retries'),
    ],
)
def test_what_eventbridge_would_refuse_is_refused_with_the_remedy(changes, reason):
    with pytest.raises(ScheduleError, match=re.escape(reason)):
        replace(REPORT, **changes)


class Clock:
    """Time goes by only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


def failing(times: int, code: str) -> Any:
    """A request that fails so many times with AWS's error, and then answers."""
    tries = iter(range(times + 1))

    def request() -> str:
        if next(tries) < times:
            raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "CreateSchedule")
        return "answer"

    return request


@given(st.floats(0.5, 5000), st.integers(1, 300))
def test_no_second_sees_more_requests_than_it_may(per_second, requests):
    clock = Clock()
    pace = Pace(per_second, clock=clock, sleep=clock.sleep)
    for _ in range(requests):
        pace.call(lambda: None)
    at_once = max(1.0, per_second / 10)
    assert clock.now == pytest.approx(max(0.0, (requests - at_once) / per_second))


def test_a_throttled_request_is_made_again_after_pauses_that_grow():
    clock = Clock()
    assert Pace(100, clock=clock, sleep=clock.sleep).call(failing(6, "ThrottlingException")) == "answer"
    limits = sum(min(5.0, 0.1 * 2**tries) for tries in range(1, 7))
    assert limits / 2 <= clock.now <= limits + 0.1


def test_throttling_that_does_not_end_is_raised():
    clock = Clock()
    with pytest.raises(ClientError):
        Pace(100, clock=clock, sleep=clock.sleep).call(failing(100, "ThrottlingException"))


def test_what_another_try_cannot_help_is_raised_at_once():
    clock = Clock()
    with pytest.raises(ClientError):
        Pace(100, clock=clock, sleep=clock.sleep).call(failing(1, "ValidationException"))
    assert clock.now == 0


def test_no_request_is_made_after_the_budget_and_none_waited_for():
    clock = Clock()
    pace = Pace(10, budget_seconds=1, clock=clock, sleep=clock.sleep)
    made: list[float] = []

    def go_on() -> None:
        while True:
            pace.call(lambda: made.append(clock.now))

    with pytest.raises(OutOfTimeError):
        go_on()
    assert len(made) == 10
    assert clock.now < 1


def test_a_budget_that_is_spent_lets_nothing_through_however_little_was_asked():
    clock = Clock()
    pace = Pace(1000, budget_seconds=1, clock=clock, sleep=clock.sleep)
    pace.call(lambda: None)
    clock.now = 1.0
    assert pace.is_over
    with pytest.raises(OutOfTimeError):
        pace.call(lambda: pytest.fail("it was asked"))


def test_a_pace_of_nothing_is_refused():
    with pytest.raises(ValueError, match="per_second=0 lets nothing through"):
        Pace(0)
