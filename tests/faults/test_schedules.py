"""Schedules with real workers: what EventBridge delivers twice, what overlaps, what dies."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.shop import Shop, lease_of, open_shop
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

TASKS = """
import time

from celery import shared_task

from tests.faults.shop import trace


@shared_task(name="shop.work", bind=True)
def work(self, seconds=0):
    trace("began", self.request.id)
    time.sleep(seconds)
    trace("ran", self.request.id)
"""
LEASE_SECONDS = 6
NAME = "nightly"
MINUTE = datetime.timedelta(minutes=1)


@pytest.fixture(scope="module")
def whole_shop(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("schedules")
    with open_shop(folder, stack_database_url, TASKS, lease_of(LEASE_SECONDS)) as made:
        yield made


@pytest.fixture
def shop(whole_shop: Shop) -> Iterator[Shop]:
    """With no schedule, no run, nothing revoked and no worker."""
    whole_shop.run("for model in (Attempt, Run, Revocation, Schedule):\n    model.objects.all().delete()")
    whole_shop.trace_file.unlink(missing_ok=True)
    yield whole_shop
    while whole_shop.workers:
        whole_shop.workers.pop().kill()
    whole_shop.server.duplicate_share = 0
    whole_shop.queue().ready.clear()


def put(shop: Shop, overlap: str, seconds: float = 0) -> None:
    """Make the schedule, or change it."""
    shop.run(
        f"made = Schedule.objects.filter(name={NAME!r}).first() or Schedule(name={NAME!r}, timing='* * * * *')\n"
        f"made.task, made.kwargs, made.overlap = 'shop.work', {{'seconds': {seconds}}}, {overlap!r}\n"
        "made.catch_up_seconds = 86400\nmade.save()\n"
        # As if it had been so for long.
        "from django.utils import timezone; from datetime import timedelta\n"
        "Schedule.objects.update(changed_at=timezone.now() - timedelta(days=2))"
    )


def fire(shop: Shop, *numbers: int, copies: int = 1) -> list[str]:
    """Send what EventBridge sends for these due times, given in minutes before now; the runs' ids."""
    now = datetime.datetime.now(datetime.UTC).replace(second=0, microsecond=0)
    times = [f"{now - number * MINUTE:%Y-%m-%dT%H:%M:%SZ}" for number in numbers]
    shop.run(
        "from serverless import aws; from tasks.runtime.schedules import messages; from django.conf import settings\n"
        f"text = messages.input_of(Schedule.objects.get(name={NAME!r}))\n"
        f"for time in {times!r} * {copies}:\n"
        "    aws.client('sqs').send_message(QueueUrl=settings.QUEUE_URL_PREFIX + 'default',"
        " MessageBody=text.replace(messages.SCHEDULED_TIME, time))"
    )
    return [f"{NAME}@{time}" for time in times]


def states(shop: Shop) -> dict[str, Any]:
    return {pk: [state, error] for pk, state, error in json.loads(shop.run(_STATES).stdout.splitlines()[-1])}


_STATES = "print(json.dumps(list(Run.objects.values_list('pk', 'state', 'error'))))"


def began(shop: Shop) -> Counter[str]:
    return Counter(trace.task_id for trace in shop.traces("began"))


def test_due_times_that_fire_several_times_to_several_workers_run_once(shop):
    put(shop, "allow")
    shop.server.duplicate_share = 0.3
    for _ in range(2):
        shop.start_worker(concurrency=2)
    fired = fire(shop, *range(30), copies=3)
    shop.await_empty(90)
    assert began(shop) == Counter(fired)
    assert {state for state, _ in states(shop).values()} == {"succeeded"}
    assert set(states(shop)) == set(fired)


def test_a_run_that_is_cancelled_by_the_next_is_terminated_and_the_next_begins_at_once(shop):
    put(shop, "cancel", seconds=120)
    shop.start_worker(concurrency=2)
    [first] = fire(shop, 2)
    wait_for(lambda: began(shop)[first], "the first run")
    put(shop, "cancel")
    [second] = fire(shop, 1)
    wait_for(lambda: states(shop).get(second, [""])[0] == "succeeded", "the second run", 40)
    assert states(shop)[first][0] == "revoked"
    assert began(shop) == Counter([first, second])


def test_a_run_that_waits_begins_when_the_earlier_one_has_ended(shop):
    put(shop, "queue", seconds=4)
    shop.start_worker(concurrency=2)
    [first] = fire(shop, 3)
    wait_for(lambda: began(shop)[first], "the first run")
    put(shop, "queue")
    second, third = fire(shop, 2, 1)
    wait_for(lambda: states(shop).get(second, [""])[0] == "succeeded", "the second run", 40)
    end_of_first = next(trace.at for trace in shop.traces("ran") if trace.task_id == first)
    begin_of_second = next(trace.at for trace in shop.traces("began") if trace.task_id == second)
    # No minute's sweep was needed.
    assert 0 <= begin_of_second - end_of_first < 20
    assert states(shop)[third] == ["skipped", "an earlier run has not ended, and another waits for its end"]


def test_a_run_whose_worker_is_killed_runs_again_and_what_came_meanwhile_was_skipped(shop):
    put(shop, "skip", seconds=5)
    worker = shop.start_worker()
    [first] = fire(shop, 2)
    wait_for(lambda: began(shop)[first], "the first run")
    worker.kill()
    shop.start_worker(concurrency=2)
    [second] = fire(shop, 1)
    wait_for(lambda: states(shop)[first][0] == "succeeded", "the first run again", 60)
    shop.await_empty(60)
    assert began(shop)[first] == 2
    assert states(shop)[second] == ["skipped", "an earlier run has not ended"]
