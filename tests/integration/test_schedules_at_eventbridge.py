"""Schedules on their way to EventBridge Scheduler, as the local cloud plays it."""

from __future__ import annotations

import datetime
import io
import json
import re
from typing import Any

import pytest
from celery import shared_task
from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from django_app.ledger import errands, housekeeping
from django_app.ledger.models import Errand, Schedule
from django_app.ledger.schedules.services import pause, resume
from serverless import aws
from serverless.local.cloud import environment
from serverless.scheduler import expressions
from tasks.celery import app
from tasks.runtime.schedules import messages, synchronise, syncing
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = datetime.timedelta(hours=1)


@shared_task(name="tests.eventbridge.note")
def note(*args: Any) -> None:
    """Scheduled, never run here."""


@pytest.fixture(autouse=True)
def eventbridge(cloud, settings):
    """A schedule group of the local cloud's, empty at the beginning and at the end."""
    for name, value in environment(cloud).items():
        if name.startswith(("SCHEDULE_", "QUEUE_URL")):
            setattr(settings, name, value)
    settings.SCHEDULE_GROUP = "cloudqueue-test"
    yield
    for name in at_eventbridge():
        aws.client("scheduler").delete_schedule(GroupName="cloudqueue-test", Name=name)


@pytest.fixture
def in_code():
    before = app.conf.beat_schedule

    def put(entries: dict[str, Any]) -> None:
        app.conf.beat_schedule = entries

    yield put
    app.conf.beat_schedule = before


def at_eventbridge() -> dict[str, dict[str, Any]]:
    """What is there, by its AWS name."""
    client = aws.client("scheduler")
    try:
        pages = list(client.get_paginator("list_schedules").paginate(GroupName="cloudqueue-test"))
    except client.exceptions.ResourceNotFoundException:
        return {}
    names = [each["Name"] for page in pages for each in page["Schedules"]]
    found = {name: client.get_schedule(GroupName="cloudqueue-test", Name=name) for name in names}
    return {name: {key: each[key] for key in each if key != "ResponseMetadata"} for name, each in found.items()}


def a_schedule(name: str = "nightly", **fields: Any) -> Schedule:
    schedule = Schedule(name=name, **{"task": "tests.eventbridge.note", "timing": "0 3 * * *", **fields})
    schedule.save()
    schedule.refresh_from_db()
    return schedule


def manage(*arguments: str) -> str:
    out = io.StringIO()
    call_command("schedules", *arguments, stdout=out)
    return out.getvalue()


def test_a_saved_schedule_is_at_eventbridge_after_the_commit_and_goes_with_its_row():
    schedule = a_schedule(zone="Europe/Berlin", jitter_minutes=5, args=[1])
    assert schedule.synced_at is not None
    assert schedule.sync_error == ""
    ((name, there),) = at_eventbridge().items()
    assert name.startswith("nightly-")
    assert (there["ScheduleExpression"], there["ScheduleExpressionTimezone"]) == ("cron(0 3 * * ? *)", "Europe/Berlin")
    assert there["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}
    target = there["Target"]
    assert target["Arn"] == "arn:aws:sqs:us-east-1:123456789012:cloudqueue-default"
    assert target["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
    assert "schedules-dead" in target["DeadLetterConfig"]["Arn"]
    assert target["RoleArn"].endswith(":role/cloudqueue-local-scheduler")
    sent = json.loads(target["Input"].replace(messages.SCHEDULED_TIME, "2026-11-30T02:00:00Z"))
    assert sent["headers"]["id"] == "nightly@2026-11-30T02:00:00Z"
    assert json.loads(sent["body"])[0] == [1]
    schedule.delete()
    assert at_eventbridge() == {}


def test_a_changed_schedule_replaces_the_old_one_and_another_is_left_alone():
    schedule, other = a_schedule(), a_schedule("other")
    before = at_eventbridge()
    schedule.timing = "0 4 * * *"
    schedule.save()
    after = at_eventbridge()
    assert len(after) == 2
    (kept,) = set(before) & set(after)
    assert kept.startswith("other-")
    assert {each["ScheduleExpression"] for each in after.values()} == {"cron(0 3 * * ? *)", "cron(0 4 * * ? *)"}
    other.refresh_from_db()
    schedule.name = "renamed"
    schedule.save()
    assert {name.partition("-")[0] for name in at_eventbridge()} == {"other", "renamed"}


def test_a_crontab_that_needs_several_aws_schedules_has_them_under_one_name():
    a_schedule(timing="0 8 13 * fri")
    names = list(at_eventbridge())
    assert len(names) > 1
    assert len({name.rpartition("-")[0] for name in names}) == 1
    Schedule.objects.get().delete()
    assert at_eventbridge() == {}


def test_a_rollback_leaves_eventbridge_alone():
    with transaction.atomic():
        a_schedule()
        transaction.set_rollback(True)
    assert at_eventbridge() == {}


def test_a_paused_schedule_is_not_at_eventbridge():
    schedule = a_schedule()
    pause(schedule, "ada", "")
    assert at_eventbridge() == {}
    resume(schedule, "ada")
    assert len(at_eventbridge()) == 1


def test_a_failed_sync_shows_on_the_schedule_and_is_repaired_by_the_housekeeping(monkeypatch):
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        aws.forget_clients()
        schedule = a_schedule()
    aws.forget_clients()
    assert schedule.synced_at is None
    assert schedule.sync_error == "EventBridge did not answer in 5 s; it is tried again each minute"
    assert housekeeping.run(timezone.now()).schedules_synchronised == 1
    schedule.refresh_from_db()
    assert schedule.synced_at is not None
    assert schedule.sync_error == ""
    assert len(at_eventbridge()) == 1


def test_what_was_changed_at_aws_by_hand_is_put_right_within_the_hour():
    a_schedule("a")
    a_schedule("b")
    syncing.repair(timezone.now(), 20)
    client = aws.client("scheduler")
    first, second = sorted(at_eventbridge())
    client.delete_schedule(GroupName="cloudqueue-test", Name=first)
    there = client.get_schedule(GroupName="cloudqueue-test", Name=second)
    changed = {key: there[key] for key in ("FlexibleTimeWindow", "Target", "ScheduleExpressionTimezone")}
    client.update_schedule(
        GroupName="cloudqueue-test", Name=second, ScheduleExpression="cron(0 9 * * ? *)", State="DISABLED", **changed
    )
    stray = {"GroupName": "cloudqueue-test", "Name": "stray", "ScheduleExpression": "rate(1 hour)", **changed}
    client.create_schedule(**stray)
    client.create_schedule(**{**stray, "GroupName": "default"})
    syncing.repair(timezone.now(), 20)
    assert sorted(at_eventbridge()) == [second, "stray"]
    syncing.repair(timezone.now() + HOUR, 20)
    assert sorted(at_eventbridge()) == [first, second]
    assert {(each["ScheduleExpression"], each["State"]) for each in at_eventbridge().values()} == {
        ("cron(0 3 * * ? *)", "ENABLED")
    }
    # It deletes in its own group alone.
    client.delete_schedule(GroupName="default", Name="stray")


def test_a_comparison_that_was_not_finished_goes_on_in_the_next_round():
    model = vars_of(a_schedule("model"))
    Schedule.objects.all().delete()
    Schedule.objects.bulk_create(Schedule(**{**model, "name": f"s{number}"}) for number in range(60))
    now = timezone.now()
    # EventBridge takes fifty a second.
    syncing.repair(now, 0.5)
    assert len([name for name in at_eventbridge() if name.startswith("s")]) < 60
    assert Errand.objects.get().due_at <= now
    syncing.repair(now, 60)
    assert len([name for name in at_eventbridge() if name.startswith("s")]) == 60
    assert not errands.take("schedules at EventBridge", now, HOUR)


def vars_of(schedule: Schedule) -> dict[str, Any]:
    return {field.attname: getattr(schedule, field.attname) for field in Schedule._meta.fields if field.name != "id"}


def test_the_command_shows_its_plan_does_it_once_and_then_has_nothing_to_do(in_code):
    in_code({"clean": {"task": "tests.eventbridge.note", "schedule": crontab(minute=0, hour=4)}})
    a_schedule("theirs")
    planned = manage("sync", "--plan")
    assert "create in the table: clean" in planned
    assert not Schedule.objects.filter(name="clean").exists()
    assert "0 created, 0 repaired, 0 deleted, 2 unchanged" in manage("sync")
    assert {name.partition("-")[0] for name in at_eventbridge()} == {"clean", "theirs"}
    before = at_eventbridge()
    assert "0 created, 0 repaired, 0 deleted, 2 unchanged" in manage("sync")
    assert at_eventbridge() == before
    in_code({})
    told = manage("sync")
    assert "delete from the table: clean" in told
    assert {name.partition("-")[0] for name in at_eventbridge()} == {"theirs"}


def test_the_command_says_what_stands_in_code_and_cannot_be_had(in_code):
    in_code({"clean": {"task": "tests.eventbridge.nope", "schedule": 60}})
    with pytest.raises(CommandError, match=r"tests\.eventbridge\.nope"):
        manage("sync")
    assert at_eventbridge() == {}


def test_two_deploys_at_once_end_in_the_same_schedules(in_code):
    in_code({f"s{n}": {"task": "tests.eventbridge.note", "schedule": crontab(minute=n)} for n in range(12)})
    manage("sync")
    for name in list(at_eventbridge())[:6]:
        aws.client("scheduler").delete_schedule(GroupName="cloudqueue-test", Name=name)
    at_once(3, lambda _: syncing.synchronise_all())
    assert len(at_eventbridge()) == 12


def test_the_list_and_the_next_times_are_told_in_the_schedules_zone():
    a_schedule(zone="Europe/Berlin", timing="0 8 * * mon")
    pause(a_schedule("other"), "ada", "stocktaking")
    listed = manage("list")
    assert re.search(
        r"^nightly .* every Monday at 08:00 \(Europe/Berlin\)  next \d{4}-\d\d-\d\d 08:00 CES?T$", listed, re.M
    )
    assert re.search(r"^other .* paused by ada$", listed, re.M)
    times = manage("next", "3", "--name", "nightly").splitlines()
    assert len(times) == 4
    assert all(re.fullmatch(r"  Mon \S+ 08:00 CES?T  \S+ 0[67]:00 UTC", line) for line in times[1:])
    with pytest.raises(CommandError, match='there is no schedule "nigtly"'):
        manage("next", "--name", "nigtly")


def test_without_a_group_the_schedule_says_so(settings):
    settings.SCHEDULE_GROUP = ""
    schedule = a_schedule()
    assert schedule.sync_error == "SCHEDULE_GROUP is not set: EventBridge does not know it"
    assert "SCHEDULE_GROUP is not set" in manage("sync")
    assert syncing.repair(timezone.now(), 5) == 0


def test_a_schedule_that_cannot_be_had_any_more_says_so_and_does_not_stop_the_others(settings):
    a_schedule("good")
    bad = a_schedule("bad")
    Schedule.objects.filter(pk=bad.pk).update(options={"queue": "gone"}, synced_at=None)
    synchronise("bad")
    bad.refresh_from_db()
    assert "gone" in bad.sync_error
    before = set(at_eventbridge())
    assert syncing.plan().delete == []
    done = syncing.synchronise_all()
    assert set(done.failed) == {"bad"}
    # What cannot be told is left as it was.
    assert set(at_eventbridge()) == before
    assert len(before) == 2
    assert Schedule.objects.get(name="good").synced_at is not None


def test_queue_addresses_that_hold_no_account_are_refused_with_the_remedy(settings):
    settings.QUEUE_URL_PREFIX = "https://queues.example/"
    with pytest.raises(ImproperlyConfigured, match="holds no account id"):
        syncing.queue_arn("default")
    settings.QUEUE_URL_PREFIX = "https://sqs.cn-north-1.amazonaws.com.cn/111122223333/shop-"
    assert syncing.queue_arn("low") == "arn:aws-cn:sqs:us-east-1:111122223333:shop-low"


def test_what_is_at_eventbridge_fires_when_the_schedule_is_due():
    schedule = a_schedule(timing="*/20 8-10 1-10 * mon", zone="America/New_York")
    now = timezone.now()
    fires: set[datetime.datetime] = set()
    for there in at_eventbridge().values():
        expression = expressions.parse(there["ScheduleExpression"], there["ScheduleExpressionTimezone"])
        fires |= set(expression.times(now, now + 300 * 24 * HOUR))
    assert fires == set(schedule.when.times(now, now + 300 * 24 * HOUR))
    assert fires
