"""What the laptop's clock decides by itself: what is due when, what a target is sent, when a try was the last."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless.invocations import Kind, kind_of, name_of
from serverless.local.clock.events import StageEvents, handler_of
from serverless.local.clock.firings import MINUTE, Firing, delay_in_window
from serverless.local.clock.sources import Source
from serverless.local.clock.state import State
from serverless.scheduler import expressions
from tests.conftest import ROOT
from tests.lambda_events import recorded

SCHEDULE = "arn:aws:scheduler:us-east-1:123456789012:schedule/cloudqueue/report-1"
RULE = "arn:aws:events:eu-central-1:123456789012:rule/nightly"
QUEUE = "arn:aws:sqs:us-east-1:123456789012:work"
DUE = datetime(2026, 11, 30, 7, tzinfo=UTC)


def firing(source: str = "schedule", **target: Any) -> Firing:
    arn = SCHEDULE if source == "schedule" else RULE
    return Firing(source, arn, DUE, {"Arn": QUEUE, **target}, DUE, id="d32c5kddcf5bb8c3")


def source(text: str, **options: Any) -> Source:
    start = options.get("starts_at") or options.get("created_at") or datetime(1970, 1, 1, tzinfo=UTC)
    parsed = expressions.parse(text, options.pop("zone", "UTC"), start)
    return Source("schedule", SCHEDULE, parsed, {"Arn": QUEUE}, **options)


def due(one: Source, after: datetime, until: datetime) -> list[datetime]:
    return [each.due for each in one.firings(after, until, is_exact=True)]


def test_keywords_are_replaced_wherever_they_stand():
    text = '{"id": "report@<aws.scheduler.scheduled-time>", "n": <aws.scheduler.attempt-number>}'
    assert json.loads(firing(Input=text).message(2)) == {"id": "report@2026-11-30T07:00:00Z", "n": 2}
    made = firing(Input="<aws.scheduler.schedule-arn> <aws.scheduler.execution-id> <aws.scheduler.other> <x>")
    assert made.message(1) == f"{SCHEDULE} d32c5kddcf5bb8c3 <aws.scheduler.other> <x>"


def test_a_rule_without_an_input_sends_eventbridges_event():
    event = json.loads(firing("rule").message(1))
    assert event == recorded("eventbridge_rule_of_others") | {
        "id": "d32c5kddcf5bb8c3",
        "time": "2026-11-30T07:00:00Z",
        "resources": [RULE],
        "region": "eu-central-1",
        "account": "123456789012",
        "detail": {},
    }


def test_a_rules_input_and_path_are_taken_as_they_are():
    assert firing("rule", Input='{"a": "<x>"}').message(1) == '{"a": "<x>"}'
    assert firing("rule", InputPath="$.resources").message(1) == json.dumps([RULE])


def test_a_rule_that_zappa_made_sends_what_our_function_routes_by_its_name():
    names = ("time", "detail-type", "source", "account", "region", "detail", "version", "resources", "id")
    template = "{" + ", ".join(f'"{name}": <{name}>' for name in names) + ', "kwargs": {"event": "housekeeping"}}'
    transformer = {"InputPathsMap": {name: f"$.{name}" for name in names}, "InputTemplate": template}
    event = json.loads(firing("rule", InputTransformer=transformer).message(1))
    assert set(event) == set(recorded("eventbridge_rule"))
    assert (kind_of(event), name_of(event)) == (Kind.NAMED, "housekeeping")


def test_inside_of_a_text_a_value_stands_without_its_quotation_marks():
    transformer = {"InputPathsMap": {"when": "$.time"}, "InputTemplate": '{"a": "at <when>", "b": <when>, "c": "<no>"}'}
    made = firing("rule", InputTransformer=transformer)
    assert json.loads(made.message(1)) == {"a": "at 2026-11-30T07:00:00Z", "b": "2026-11-30T07:00:00Z", "c": "<no>"}


@given(st.integers(0, 185), st.integers(60, 86400))
def test_tries_end_with_the_number_or_with_the_age_whichever_is_first(retries, age):
    made = firing(RetryPolicy={"MaximumRetryAttempts": retries, "MaximumEventAgeInSeconds": age})
    now, condition = DUE, ""
    while not condition:
        condition = made.failed("Code", "message", now)
        now = made.not_before
    by_age = age // 60 + 1
    assert made.attempts == min(retries + 1, by_age)
    assert condition == ("MaximumRetryAttempts" if retries + 1 <= by_age else "MaximumEventAgeInSeconds")


def test_a_dead_letter_tells_what_aws_tells():
    made = firing(RetryPolicy={"MaximumRetryAttempts": 0})
    condition = made.failed("AWS.SimpleQueueService.NonExistentQueue", "no such queue", DUE)
    assert made.story(condition) == {
        "ERROR_CODE": "AWS.SimpleQueueService.NonExistentQueue",
        "ERROR_MESSAGE": "no such queue",
        "EXECUTION_ID": "d32c5kddcf5bb8c3",
        "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts",
        "IS_PAYLOAD_TRUNCATED": "false",
        "RETRY_ATTEMPTS": "0",
        "SCHEDULED_TIME": "2026-11-30T07:00:00Z",
        "SCHEDULE_ARN": SCHEDULE,
        "TARGET_ARN": QUEUE,
    }
    assert set(firing("rule").story("")) == {
        *("ERROR_CODE", "ERROR_MESSAGE", "EXHAUSTED_RETRY_CONDITION", "RETRY_ATTEMPTS", "RULE_ARN", "TARGET_ARN")
    }


@given(st.integers(0, 1440), st.integers(0, 10**6))
def test_a_flexible_window_is_drawn_once_and_kept(minutes, moment):
    at = DUE + timedelta(minutes=moment)
    delay = delay_in_window(SCHEDULE, at, minutes)
    assert timedelta(0) <= delay < max(MINUTE, timedelta(minutes=minutes))
    assert delay == delay_in_window(SCHEDULE, at, minutes)


def test_a_flexible_window_spreads_what_is_due_at_once_and_leaves_its_time():
    delays = {delay_in_window(f"{SCHEDULE}{number}", DUE, 15) for number in range(300)}
    assert delays == {timedelta(minutes=minute) for minute in range(15)}
    flexible = source("cron(0 7 * * ? *)", window_minutes=15)
    (made,) = flexible.firings(DUE - MINUTE, DUE, is_exact=False)
    assert (made.due, made.not_before) == (DUE, DUE + delay_in_window(SCHEDULE, DUE, 15))
    (exact,) = flexible.firings(DUE - MINUTE, DUE, is_exact=True)
    assert exact.not_before == DUE


def test_a_schedule_fires_from_its_start_to_its_end():
    start, end = DUE + timedelta(minutes=2, seconds=30), DUE + timedelta(minutes=4)
    bounded = source("cron(* * * * ? *)", starts_at=start, ends_at=end)
    assert due(bounded, DUE, DUE + timedelta(hours=1)) == [DUE + minutes * MINUTE for minutes in (2, 3, 4)]


@given(st.integers(1, 5000), st.integers(-20_000, 20_000))
def test_a_rate_is_on_the_grid_of_its_creation_before_it_too(minutes, shift):
    created = DUE + timedelta(minutes=shift)
    rate = source(f"rate({minutes} minute{'s' if minutes > 1 else ''})", created_at=created)
    found = due(rate, DUE - timedelta(minutes=minutes), DUE)
    assert len(found) == 1
    assert (found[0] - created) % timedelta(minutes=minutes) == timedelta(0)


def test_what_deletes_itself_is_complete_when_nothing_is_left_to_fire():
    once = source("at(2026-11-30T07:00:00)", deletes=True)
    assert not once.is_complete(DUE - MINUTE)
    assert once.is_complete(DUE)
    assert not source("at(2026-11-30T07:00:00)").is_complete(DUE)
    daily = source("cron(0 7 * * ? *)", deletes=True, ends_at=DUE + timedelta(hours=30))
    assert not daily.is_complete(DUE)
    assert daily.is_complete(DUE + timedelta(hours=24))
    assert not source("cron(0 7 * * ? *)", deletes=True).is_complete(DUE)


@given(
    st.integers(0, 200),
    st.none() | st.just(DUE + MINUTE),
    st.text(max_size=30),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
)
def test_what_is_on_its_way_is_kept_as_it_is(attempts, tried, message, target):
    made = firing(**target)
    made.attempts, made.first_tried_at, made.error = attempts, tried, ("Code", message)
    assert Firing.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_the_state_is_there_after_a_restart(tmp_path):
    file = tmp_path / "there" / "clock.json"
    state, made = State(file), firing()
    state.played, state.pending[made.id] = DUE, made
    state.save()
    again = State(file)
    assert (again.played, again.pending) == (DUE, {made.id: made})
    assert [path.name for path in file.parent.iterdir()] == ["clock.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"played": "yesterday", "pending": []}', '{"played": 7}'])
def test_a_state_that_is_none_is_told_and_begun_anew(tmp_path, caplog, text):
    file = tmp_path / "clock.json"
    file.write_text(text)
    assert State(file).played is None
    assert f"{file} is no state of the clock" in caplog.text


class Handlers:
    """What was called, by name; `hold` keeps a handler at work."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], Any]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.error: BaseException | None = None

    def of(self, name: str) -> Callable[[dict[str, Any], Any], object]:
        def handle(event: dict[str, Any], invocation: Any) -> None:
            self.calls.append((name, event, invocation))
            self.hold.wait(30)
            if self.error is not None:
                raise self.error

        return handle


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def stage_events(tmp_path: Path, handlers: Handlers, *events: dict[str, Any], **changes: Any) -> StageEvents:
    """The events of stage dev, in a copy of our own settings."""
    stages = json.loads((ROOT / "zappa_settings.json").read_text())
    stages["base"] |= changes
    if events:
        stages["base"]["events"] = list(events)
    file = tmp_path / "zappa_settings.json"
    file.write_text(json.dumps(stages))
    return StageEvents(file, "dev", handlers.of)


def event(name: str, expression: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "function": "x.y", "expression": expression, "kwargs": {"event": name}, **more}


def test_our_own_stage_has_its_housekeeping_done_each_minute(tmp_path, handlers):
    events = stage_events(tmp_path, handlers)
    for minute in range(3):
        events.play([], DUE + minute * MINUTE, DUE + (minute + 1) * MINUTE)
        events.wait()
    assert [name for name, _, _ in handlers.calls] == ["housekeeping"] * 3
    _, sent, invocation = handlers.calls[0]
    assert set(sent) == set(recorded("eventbridge_rule"))
    assert (kind_of(sent), name_of(sent), sent["time"]) == (Kind.NAMED, "housekeeping", "2026-11-30T07:01:00Z")
    assert 0 < invocation.remaining_seconds() <= 29
    assert invocation.request_id


def test_an_event_comes_when_it_is_due_and_of_many_missed_times_once(tmp_path, handlers):
    nightly = {**event("nightly", ""), "expressions": ["cron(0 3 * * ? *)", "cron(0 4 * * ? *)"]}
    events = stage_events(tmp_path, handlers, event("often", "rate(5 minutes)"), nightly)
    events.play([], DUE - timedelta(hours=9), DUE)
    events.wait()
    assert sorted((name, sent["time"]) for name, sent, _ in handlers.calls) == [
        ("nightly", "2026-11-30T04:00:00Z"),
        ("often", "2026-11-30T07:00:00Z"),
    ]
    events.play([], DUE, DUE + MINUTE)
    events.wait()
    assert len(handlers.calls) == 2


def test_a_handler_that_fails_is_told_and_stops_nothing(tmp_path, handlers, caplog):
    handlers.error = SystemExit(3)
    events = stage_events(tmp_path, handlers, event("a", "rate(1 minute)"), event("b", "rate(1 minute)"))
    for minute in range(2):
        events.play([], DUE + minute * MINUTE, DUE + (minute + 1) * MINUTE)
        events.wait()
    assert sorted(name for name, _, _ in handlers.calls) == ["a", "a", "b", "b"]
    assert "event a: the handler of a failed" in caplog.text


def test_a_handler_still_at_work_holds_neither_the_clock_nor_another_event(tmp_path, handlers, caplog):
    handlers.hold.clear()
    events = stage_events(tmp_path, handlers, event("slow", "rate(1 minute)"), event("other", "rate(2 minutes)"))
    events.play([], DUE, DUE + MINUTE)
    events.play([], DUE + MINUTE, DUE + 2 * MINUTE)
    handlers.hold.set()
    events.wait()
    assert sorted(name for name, _, _ in handlers.calls) == ["other", "slow"]
    assert "event slow is due at 2026-11-30T07:02:00Z, and its handler still at work" in caplog.text
    events.play([], DUE + 2 * MINUTE, DUE + 3 * MINUTE)
    events.wait()
    assert len(handlers.calls) == 3


def test_where_the_function_is_deployed_its_rules_are_played_instead(tmp_path, handlers):
    events = stage_events(tmp_path, handlers)
    minutely = expressions.parse("rate(1 minute)", "UTC", DUE)

    def rule_to(function: str) -> Source:
        target = {"Arn": f"arn:aws:lambda:us-east-1:123456789012:function:{function}"}
        return Source("rule", RULE, minutely, target)

    events.play([rule_to("cloudqueue-dev")], DUE, DUE + MINUTE)
    events.wait()
    assert handlers.calls == []
    events.play([rule_to("cloudqueue-staging"), source("rate(1 minute)")], DUE, DUE + MINUTE)
    events.wait()
    assert len(handlers.calls) == 1


def test_events_that_are_off_or_of_no_time_are_left_out(tmp_path, handlers):
    records = {
        "name": "records",
        "function": "x.y",
        "event_source": {"arn": "arn:aws:s3:::files"},
        "kwargs": {"event": "records"},
    }
    events = stage_events(tmp_path, handlers, event("off", "rate(1 minute)", enabled=False), records)
    events.play([], DUE, DUE + MINUTE)
    events.wait()
    assert handlers.calls == []


def test_an_expression_that_is_none_is_refused_with_the_events_name(tmp_path, handlers):
    with pytest.raises(ValueError, match=r'event "broken": rate\(1 minutes\): .*singular'):
        stage_events(tmp_path, handlers, event("broken", "rate(1 minutes)"))


def test_a_name_that_nobody_handles_is_told_with_those_known(settings):
    settings.EVENT_HANDLERS = {"housekeeping": "serverless.entrypoints.clock.housekeeping_round"}
    assert handler_of("housekeeping").__name__ == "housekeeping_round"
    with pytest.raises(LookupError, match=r'"nightly" is no name of EVENT_HANDLERS \(housekeeping\)'):
        handler_of("nightly")
