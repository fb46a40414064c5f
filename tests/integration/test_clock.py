"""The laptop's clock plays what is in the local cloud: schedules and rules, to queues and functions."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from serverless import aws
from serverless.local.clock.events import StageEvents
from serverless.local.clock.firings import MINUTE, stamp
from serverless.local.clock.rounds import Clock
from serverless.local.clock.state import State
from serverless.local.cloud import ACCOUNT_ID, REGION
from tests.conftest import ROOT, run_cloud
from tests.waiting import wait_for

#: A Monday, long before any of these schedules is created, and one long after.
THEN = datetime(2024, 2, 5, 7, tzinfo=UTC)
LATER = datetime(2035, 1, 8, 7, tzinfo=UTC)
ROLE = "arn:aws:iam::123456789012:role/cloudqueue-local-scheduler"


class Works:
    """A schedule group and queues of a test's own."""

    def __init__(self) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        self.sqs = boto3.client("sqs")
        self.scheduler = boto3.client("scheduler")
        self.scheduler.create_schedule_group(Name=self.name)
        self.urls: dict[str, str] = {}

    def queue(self, name: str) -> str:
        """Its ARN; made when it is first named."""
        if name not in self.urls:
            self.urls[name] = self.sqs.create_queue(QueueName=f"{self.name}-{name}")["QueueUrl"]
        return self.arn(name)

    def arn(self, name: str) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{self.name}-{name}"

    def schedule(self, name: str, expression: str, target: dict[str, Any] | None = None, **options: Any) -> str:
        """Create one that sends `<its name>@<its time>` to the queue "work"; its ARN."""
        keywords = f"{name}@<aws.scheduler.scheduled-time>"
        request = {
            "ScheduleExpression": expression,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {"Arn": self.queue("work"), "RoleArn": ROLE, "Input": keywords} | (target or {}),
        }
        made: str = self.scheduler.create_schedule(Name=name, GroupName=self.name, **(request | options))["ScheduleArn"]
        return made

    def names(self) -> list[str]:
        return [found["Name"] for found in self.scheduler.list_schedules(GroupName=self.name)["Schedules"]]

    def messages(self, name: str = "work") -> list[dict[str, Any]]:
        """What the queue holds, which is empty afterwards."""
        found: list[dict[str, Any]] = []
        while page := self.sqs.receive_message(
            QueueUrl=self.urls[name], MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            for message in page:
                self.sqs.delete_message(QueueUrl=self.urls[name], ReceiptHandle=message["ReceiptHandle"])
            found += page
        return found

    def bodies(self, name: str = "work") -> list[str]:
        return sorted(message["Body"] for message in self.messages(name))

    def close(self) -> None:
        self.scheduler.delete_schedule_group(Name=self.name)
        for url in self.urls.values():
            self.sqs.delete_queue(QueueUrl=url)


@pytest.fixture
def works(cloud) -> Iterator[Works]:
    made = Works()
    yield made
    made.close()


def jump(until: datetime, since: datetime | None = None, state: State | None = None, **options: Any) -> None:
    Clock(state or State(None), **options).jump(since or until - MINUTE, until)


def at(moment: datetime, name: str = "report") -> str:
    return f"{name}@{stamp(moment)}"


@pytest.mark.parametrize("moment", [THEN, LATER], ids=["before its creation", "after it"])
def test_a_schedule_fires_at_its_minute_and_at_no_other(works, moment):
    works.schedule("report", "cron(0 8 ? * MON *)", ScheduleExpressionTimezone="Europe/Berlin")
    for minutes in (-1, 1, 60):
        jump(moment + minutes * MINUTE)
    assert works.bodies() == []
    jump(moment)
    assert works.bodies() == [at(moment)]


def test_every_due_time_of_a_span_is_played_once(works):
    works.schedule("report", "rate(20 minutes)", StartDate=LATER)
    works.schedule("daily", "cron(30 7 * * ? *)")
    jump(LATER + timedelta(hours=2), since=LATER - timedelta(hours=2))
    expected = [at(LATER + minutes * MINUTE) for minutes in range(0, 121, 20)]
    assert works.bodies() == sorted([*expected, at(LATER + 30 * MINUTE, "daily")])


def test_a_disabled_schedule_and_what_lies_outside_of_start_and_end_do_not_fire(works):
    works.schedule("off", "cron(* * * * ? *)", State="DISABLED")
    works.schedule("bounded", "cron(* * * * ? *)", StartDate=LATER, EndDate=LATER + MINUTE)
    jump(LATER + 10 * MINUTE, since=LATER - 10 * MINUTE)
    assert works.bodies() == [at(LATER, "bounded"), at(LATER + MINUTE, "bounded")]


def test_a_change_and_a_deletion_are_seen_by_the_next_round(works):
    works.schedule("report", "cron(0 7 * * ? *)")
    clock = Clock(State(None))
    clock.jump(LATER - MINUTE, LATER)
    found = works.scheduler.get_schedule(Name="report", GroupName=works.name)
    kept = {name: found[name] for name in ("Name", "GroupName", "FlexibleTimeWindow", "Target")}
    works.scheduler.update_schedule(**kept, ScheduleExpression="cron(1 7 * * ? *)")
    clock.jump(LATER, LATER + MINUTE)
    works.scheduler.delete_schedule(Name="report", GroupName=works.name)
    clock.jump(LATER + MINUTE, LATER + timedelta(days=2))
    assert works.bodies() == [at(LATER), at(LATER + MINUTE)]


def test_a_flexible_window_delays_the_message_and_not_its_time(works):
    window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 30}
    for number in range(20):
        works.schedule(f"report{number}", "cron(0 7 * * ? *)", FlexibleTimeWindow=window)
    everything = sorted(at(LATER, f"report{number}") for number in range(20))
    state = State(None)
    clock = Clock(state)
    clock.jump(LATER - MINUTE, LATER)
    first = works.bodies()
    assert len(first) < 20
    clock.jump(LATER, LATER + 29 * MINUTE)
    assert sorted(first + works.bodies()) == everything
    assert state.pending == {}
    jump(LATER, is_exact=True)
    assert works.bodies() == everything


def test_a_one_time_schedule_is_deleted_after_it_fired_if_it_says_so(works):
    once = {"ScheduleExpression": "at(2035-01-08T08:00:00)", "ScheduleExpressionTimezone": "Europe/Berlin"}
    # AWS does not look at them for what comes once.
    bounds = {"StartDate": LATER + MINUTE, "EndDate": LATER - MINUTE}
    for name, action in (("goes", "DELETE"), ("stays", "NONE")):
        works.schedule(name, "", ActionAfterCompletion=action, **once, **bounds)
    jump(LATER - MINUTE)
    assert works.names() == ["goes", "stays"]
    jump(LATER)
    assert works.bodies() == [at(LATER, "goes"), at(LATER, "stays")]
    assert works.names() == ["stays"]


def test_a_fifo_queue_gets_its_group(works):
    name = f"{works.name}-ordered.fifo"
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    works.urls["ordered.fifo"] = works.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    target = {"Arn": works.arn("ordered.fifo"), "SqsParameters": {"MessageGroupId": "one"}}
    works.schedule("report", "cron(0 7 * * ? *)", target)
    jump(LATER)
    assert works.bodies("ordered.fifo") == [at(LATER)]


def story(message: dict[str, Any]) -> dict[str, str]:
    return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}


def test_what_cannot_be_delivered_is_tried_each_minute_and_then_dead_lettered(works):
    target = {
        "Arn": works.arn("missing"),
        "DeadLetterConfig": {"Arn": works.queue("dead")},
        "RetryPolicy": {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 3600},
        "Input": '{"n": <aws.scheduler.attempt-number>}',
    }
    arn = works.schedule("report", "at(2035-01-08T07:00:00)", target, ActionAfterCompletion="DELETE")
    state = State(None)
    clock = Clock(state)
    clock.jump(LATER - MINUTE, LATER + MINUTE)
    assert works.messages("dead") == []
    assert works.names() == ["report"]
    clock.jump(LATER + MINUTE, LATER + 2 * MINUTE)
    (letter,) = works.messages("dead")
    assert json.loads(letter["Body"])["MessageBody"] == '{"n": 3}'
    told = story(letter)
    assert told["ERROR_CODE"] == "AWS.SimpleQueueService.NonExistentQueue"
    assert told["EXHAUSTED_RETRY_CONDITION"] == "MaximumRetryAttempts"
    assert told["RETRY_ATTEMPTS"] == "2"
    assert told["SCHEDULED_TIME"] == stamp(LATER)
    assert (told["SCHEDULE_ARN"], told["TARGET_ARN"]) == (arn, works.arn("missing"))
    assert state.pending == {}
    assert works.names() == []


def test_a_queue_that_is_made_meanwhile_gets_what_waited_for_it(works):
    works.schedule("report", "cron(0 7 * * ? *)", {"Arn": works.arn("late")})
    clock = Clock(State(None))
    clock.jump(LATER - MINUTE, LATER)
    works.queue("late")
    clock.jump(LATER, LATER + MINUTE)
    assert works.bodies("late") == [at(LATER)]


def test_one_target_that_fails_holds_back_no_other(works, caplog):
    works.schedule("a", "cron(0 7 * * ? *)", {"Arn": works.arn("missing")})
    works.schedule("b", "cron(0 7 * * ? *)", {"Arn": "arn:aws:sns:us-east-1:123456789012:topic"})
    nowhere = {"DeadLetterConfig": {"Arn": works.arn("no-such-queue")}, "RetryPolicy": {"MaximumRetryAttempts": 0}}
    works.schedule("c", "cron(0 7 * * ? *)", {"Arn": works.arn("missing"), **nowhere})
    works.schedule("report", "cron(0 7 * * ? *)")
    jump(LATER)
    assert works.bodies() == [at(LATER)]
    assert "the dead-letter queue took nothing either" in caplog.text


@pytest.fixture
def rule(works) -> Iterator[Callable[..., str]]:
    """Makes rules with one target; their ARNs."""
    events = boto3.client("events")
    made: list[str] = []

    def make(name: str, expression: str, target: dict[str, Any], **options: Any) -> str:
        name = f"{works.name}-{name}"
        arn: str = events.put_rule(Name=name, ScheduleExpression=expression, **options)["RuleArn"]
        made.append(name)
        events.put_targets(Rule=name, Targets=[{"Id": "one", **target}])
        return arn

    yield make
    for name in made:
        events.remove_targets(Rule=name, Ids=["one"])
        events.delete_rule(Name=name)


def test_a_rule_sends_eventbridges_event_or_its_input(works, rule):
    arn = rule("plain", "cron(0 7 ? * MON *)", {"Arn": works.queue("work")})
    rule("given", "rate(30 minutes)", {"Arn": works.queue("given"), "Input": '{"event": "given"}'})
    rule("off", "rate(1 minute)", {"Arn": works.queue("off")}, State="DISABLED")
    jump(LATER + 59 * MINUTE, since=LATER - MINUTE)
    (event,) = map(json.loads, works.bodies())
    assert (event["detail-type"], event["time"], event["resources"]) == ("Scheduled Event", stamp(LATER), [arn])
    assert works.bodies("given") == ['{"event": "given"}'] * 2
    assert works.bodies("off") == []


def test_a_rules_event_that_cannot_be_delivered_is_dead_lettered_as_it_is(works, rule):
    dead = {"DeadLetterConfig": {"Arn": works.queue("dead")}, "RetryPolicy": {"MaximumRetryAttempts": 0}}
    arn = rule("plain", "cron(0 7 ? * MON *)", {"Arn": works.arn("missing"), **dead})
    jump(LATER)
    (letter,) = works.messages("dead")
    assert json.loads(letter["Body"])["time"] == stamp(LATER)
    assert (story(letter)["RULE_ARN"], story(letter)["TARGET_ARN"]) == (arn, works.arn("missing"))


FUNCTION = """
import json, os, time
def handler(event, context):
    while "after" in event and not os.path.exists(event["after"]):
        time.sleep(0.01)
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(event) + "\\n")
    if event.get("fails"):
        raise RuntimeError("on purpose")
"""


@pytest.fixture
def function(works, tmp_path) -> Iterator[tuple[str, Path]]:
    """(ARN, a file with a line for each event) of a function of the local cloud."""
    archive, seen = io.BytesIO(), tmp_path / "seen"
    seen.touch()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("code.py", FUNCTION)
        file.writestr("work.py", FUNCTION)
    boto3.client("iam").create_role(RoleName=works.name, AssumeRolePolicyDocument="{}")
    client = boto3.client("lambda")
    arn = client.create_function(
        FunctionName=works.name,
        Runtime="python3.12",
        Role=f"arn:aws:iam::{ACCOUNT_ID}:role/{works.name}",
        Handler="work.handler",
        Code={"ZipFile": archive.getvalue()},
        Environment={"Variables": {"SEEN": str(seen)}},
    )["FunctionArn"]
    yield arn, seen
    client.delete_function(FunctionName=works.name)


def test_a_function_is_invoked_by_a_schedule_and_by_a_rule(works, rule, function):
    arn, seen = function
    text = '{"event": "scheduled", "at": "<aws.scheduler.scheduled-time>", "fails": true}'
    target = {"Arn": arn, "Input": text, "DeadLetterConfig": {"Arn": works.queue("dead")}}
    works.schedule("report", "cron(0 7 * * ? *)", target)
    rule("plain", "cron(0 7 ? * MON *)", {"Arn": arn})
    state = State(None)
    jump(LATER, state=state)
    events = [json.loads(line) for line in seen.read_text().splitlines()]
    assert sorted(event.get("event", event.get("source")) for event in events) == ["aws.events", "scheduled"]
    assert {event.get("at", event.get("time")) for event in events} == {stamp(LATER)}
    # It was invoked; that it failed is a matter of Lambda, not of EventBridge.
    assert works.messages("dead") == []
    assert state.pending == {}


def test_a_function_that_is_missing_is_a_target_that_takes_nothing(works):
    target = {
        "Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:missing",
        "Input": "{}",
        "DeadLetterConfig": {"Arn": works.queue("dead")},
        "RetryPolicy": {"MaximumRetryAttempts": 0},
    }
    works.schedule("report", "cron(0 7 * * ? *)", target)
    jump(LATER)
    (letter,) = works.messages("dead")
    assert story(letter)["ERROR_CODE"] == "ResourceNotFoundException"


# The clock that runs --------------------------------------------------------------------------------------------------


def test_the_first_start_plays_this_minute_and_not_the_past(works):
    works.schedule("report", "cron(* * * * ? *)")
    now = created(works) + MINUTE
    state = State(None)
    Clock(state).play(now)
    assert works.bodies() == [at(now)]
    assert state.played == now


def created(works: Works) -> datetime:
    """The minute that follows the creation of the schedule."""
    moment = works.scheduler.get_schedule(Name="report", GroupName=works.name)["CreationDate"].astimezone(UTC)
    return moment.replace(second=0, microsecond=0) + MINUTE


def test_what_was_missed_is_played_with_its_times_but_nothing_before_the_creation(works, tmp_path):
    works.schedule("report", "cron(* * * * ? *)")
    first = created(works)
    state = State(tmp_path / "clock.json")
    state.played = first - timedelta(hours=2)
    Clock(state).play(first + 4 * MINUTE)
    assert works.bodies() == [at(first + minutes * MINUTE) for minutes in range(5)]
    Clock(State(tmp_path / "clock.json")).play(first + 6 * MINUTE)
    assert works.bodies() == [at(first + minutes * MINUTE) for minutes in (5, 6)]
    Clock(State(tmp_path / "clock.json")).play(first + 6 * MINUTE)
    assert works.bodies() == []


def test_a_rate_without_a_start_begins_with_the_minute_that_follows(works):
    works.schedule("report", "rate(5 minutes)")
    first = created(works)
    state = State(None)
    clock = Clock(state)
    for minutes in range(-1, 7):
        clock.play(first + minutes * MINUTE)
    assert works.bodies() == [at(first), at(first + 5 * MINUTE)]


def test_no_more_than_a_day_is_made_up_for(works, caplog):
    works.schedule("report", "cron(0 * * * ? *)")
    state = State(None)
    state.played = LATER
    until = LATER + timedelta(days=3)
    Clock(state).play(until)
    assert works.bodies() == [at(until - timedelta(hours=hours)) for hours in range(23, -1, -1)]
    assert f"what was due before {stamp(until - timedelta(hours=24))} is lost" in caplog.text


def test_time_that_is_put_back_a_little_repeats_nothing_and_by_much_is_followed(works):
    works.schedule("report", "cron(* * * * ? *)")
    state = State(None)
    clock = Clock(state)
    clock.play(LATER)
    clock.play(LATER - 3 * MINUTE)
    clock.play(LATER)
    assert works.bodies() == [at(LATER)]
    clock.play(LATER - timedelta(days=1))
    assert works.bodies() == [at(LATER - timedelta(days=1))]


def test_a_clock_that_is_killed_while_it_sends_sends_again_and_misses_nothing(works, tmp_path):
    """It is killed, here, by an error that nobody catches, after the third message."""
    for number in range(6):
        works.schedule(f"report{number}", "cron(0 7 * * ? *)")
    state = State(tmp_path / "clock.json")
    clock = Clock(state)
    sent = 0

    def count(**_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 3:
            raise MemoryError

    clock._courier._sqs.meta.events.register("before-call.sqs.SendMessage", count)
    with pytest.raises(MemoryError):
        clock.play(LATER)
    Clock(State(tmp_path / "clock.json")).play(LATER + MINUTE)
    bodies = works.bodies()
    assert set(bodies) == {at(LATER, f"report{number}") for number in range(6)}
    assert len(bodies) == 9


def test_a_cloud_that_does_not_answer_costs_nothing_that_was_due(works, tmp_path, monkeypatch):
    works.schedule("report", "cron(* * * * ? *)")
    url = os.environ["AWS_ENDPOINT_URL"]
    state = State(tmp_path / "clock.json")
    state.played = LATER - MINUTE
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(aws.ERRORS):
        Clock(state).play(LATER)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    Clock(state).play(LATER + MINUTE)
    assert works.bodies() == [at(LATER), at(LATER + MINUTE)]


def test_a_function_at_work_does_not_hold_the_clock(works, function, tmp_path):
    """What it is sent stays on its way until it was taken."""
    arn, seen = function
    go_on = tmp_path / "go on"
    slow = json.dumps({"event": "slow", "after": str(go_on)})
    works.schedule("slow", "cron(0 7 * * ? *)", {"Arn": arn, "Input": slow})
    works.schedule("report", "cron(* * * * ? *)")
    state = State(tmp_path / "clock.json")
    clock = Clock(state)
    clock.play(LATER)
    clock.play(LATER + MINUTE)
    assert works.bodies() == [at(LATER), at(LATER + MINUTE)]
    assert [firing.name for firing in State(tmp_path / "clock.json").pending.values()] == ["slow"]
    go_on.touch()
    wait_for(lambda: not State(tmp_path / "clock.json").pending, "the function's end")
    assert seen.read_text().count("slow") == 1


# The command ----------------------------------------------------------------------------------------------------------


def command(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "serverless.local.clock", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_command_plays_a_time_and_says_what_was_due(works):
    works.schedule("report", "cron(0 8 ? * MON *)", ScheduleExpressionTimezone="Europe/Berlin")
    process = command("--now", "2035-01-08T08:00:30+01:00")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert f"report is due at {stamp(LATER)}: {works.name}-work" in said
    assert works.bodies() == [at(LATER)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--now", "tomorrow"], '"tomorrow" is no time. Write it as 2026-11-30T07:00:00Z.'),
        (["--now", "2026-11-30T07:00:00"], '"2026-11-30T07:00:00" has no zone.'),
        (["--since", "2026-11-30T07:00:00Z"], "--since stands before a --now that is later."),
    ],
)
def test_a_time_that_is_none_is_refused_with_the_remedy(arguments, reason):
    process = command(*arguments)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert reason in " ".join(said.split())


def test_the_running_clock_fires_and_stops_cleanly_whatever_signals_it_gets(works, tmp_path):
    works.schedule("report", "cron(* * * * ? *)")
    state = tmp_path / "clock.json"
    # As if it had stood still since yesterday; what is due since the creation comes with the next whole minute.
    process = command("--state", str(state))
    try:
        wait_for(state.exists, "the first round", 30)
        for _ in range(50):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
    played = State(state).played
    assert abs(played - datetime.now(UTC)) < 3 * MINUTE


def test_the_clock_does_the_housekeeping_of_a_stage(cloud, tmp_path):
    """With a database of its own, as the stack gives it one."""
    database = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "django_app.settings",
        "SECRET_KEY": "of this test",
    }
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    subprocess.run(migrate, cwd=ROOT, env={**os.environ, **database}, check=True)
    process = command("--events", "dev", "--now", stamp(LATER), **database)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "the handler of housekeeping failed" not in said
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as opened:
        assert opened.execute("SELECT count(*) FROM ledger_queuesample").fetchone()[0] > 0


def test_a_stage_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(Exception, match='did you mean "dev"?'):
        StageEvents(ROOT / "zappa_settings.json", "devv", lambda name: print)


def test_schedules_outlive_the_local_cloud_with_the_time_of_their_creation(tmp_path, monkeypatch):
    """So that what is due while a laptop is off is played when it is on again."""

    def scheduler(url: str) -> Any:
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": REGION}
        return boto3.client("scheduler", endpoint_url=url, **keys)

    with run_cloud(tmp_path, "http://testserver") as url:
        scheduler(url).create_schedule(
            Name="kept",
            GroupName="cloudqueue",
            ScheduleExpression="cron(0 8 * * ? *)",
            ScheduleExpressionTimezone="Europe/Berlin",
            FlexibleTimeWindow={"Mode": "OFF"},
            StartDate=datetime.now(UTC) - timedelta(minutes=4),
            Target={"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:cloudqueue-low", "RoleArn": ROLE, "Input": "x"},
        )
        before = scheduler(url).get_schedule(Name="kept", GroupName="cloudqueue")
    with run_cloud(tmp_path, "http://testserver") as url:
        after = scheduler(url).get_schedule(Name="kept", GroupName="cloudqueue")
    for answer in (before, after):
        answer.pop("ResponseMetadata")
    assert after == before
