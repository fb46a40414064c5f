"""A group of EventBridge Scheduler is brought to what is wanted, on the local cloud."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError

from serverless import aws
from serverless.scheduler.groups import Group
from serverless.scheduler.sync import Done, plan, synchronise, synchronise_one
from serverless.scheduler.wanted import Wanted, prefix
from tests.conftest import ROOT
from tests.waiting import wait_for

FAST = 10_000.0


def wanted(logical: str = "report", **changes: Any) -> Wanted:
    values: dict[str, Any] = {
        "logical": logical,
        "expression": "cron(0 8 ? * MON *)",
        "zone": "Europe/Berlin",
        "anchor": None,
        "target_arn": "arn:aws:sqs:us-east-1:123456789012:cloudqueue-default",
        "input": '{"at": "<aws.scheduler.scheduled-time>"}',
        "role_arn": "arn:aws:iam::123456789012:role/cloudqueue-local-scheduler",
        "dead_letter_arn": "arn:aws:sqs:us-east-1:123456789012:cloudqueue-schedules-dead",
        "window_minutes": 0,
        "ends_at": None,
        "max_age_seconds": 3600,
        "max_retries": 10,
        "description": "made by a test",
    }
    return Wanted(**(values | changes))


def sync(group: Group, *those: Wanted, **options: Any) -> Done:
    return synchronise(group, lambda: those, per_second=FAST, **options)


@pytest.fixture
def group(cloud) -> Iterator[Group]:
    made = Group(f"test-{secrets.token_hex(4)}")
    made.ensure()
    yield made
    # Others play in this cloud as well, with clocks.
    aws.forget_clients()
    aws.client("scheduler").delete_schedule_group(Name=made.name)


@pytest.fixture
def asked(cloud) -> Counter[str]:
    """How often each operation was asked of the API."""
    counted: Counter[str] = Counter()
    aws.client("scheduler").meta.events.register(
        "before-call.scheduler", lambda model, **_: counted.update([model.name])
    )
    return counted


def names(group: Group) -> set[str]:
    return {summary.name for summary in group.summaries()}


def test_what_is_wanted_is_created_as_it_is_wanted(group):
    ends = datetime(2031, 1, 1, tzinfo=UTC)
    one = wanted(window_minutes=5, ends_at=ends)
    assert sync(group, one) == Done(created=1)
    found = group.find(one.name)
    assert found["ScheduleExpression"] == "cron(0 8 ? * MON *)"
    assert found["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert found["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}
    assert found["EndDate"] == ends
    assert found["Target"]["Input"] == one.input
    assert found["Target"]["DeadLetterConfig"] == {"Arn": one.dead_letter_arn}
    assert found["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 10}


def test_what_is_there_already_is_left_alone_and_costs_one_request_for_a_hundred(group, asked):
    those = [wanted(f"report {number}") for number in range(130)]
    assert sync(group, *those) == Done(created=130)
    asked.clear()
    assert sync(group, *those) == Done(unchanged=130)
    assert asked == {"GetScheduleGroup": 1, "ListSchedules": 2}


def test_a_changed_schedule_is_created_before_its_old_version_is_deleted(group):
    old, new = wanted(), wanted(expression="cron(0 9 ? * MON *)")
    sync(group, old)
    seen: list[tuple[str, str]] = []
    assert sync(group, new, on_change=lambda *change: seen.append(change)) == Done(created=1, deleted=1)
    assert seen == [("created", new.name), ("deleted", old.name)]
    assert names(group) == {new.name}


@pytest.mark.parametrize("field", ["zone", "input", "role_arn", "dead_letter_arn", "max_retries", "description"])
def test_a_change_of_any_field_is_a_new_schedule(group, field):
    sync(group, wanted())
    value = {"zone": "UTC", "max_retries": 11}.get(field, "arn:aws:iam::123456789012:role/other")
    changed = wanted(**{field: value})
    assert sync(group, changed) == Done(created=1, deleted=1)


def test_several_schedules_of_one_logical_one_stand_side_by_side_and_the_same_twice_is_one(group):
    those = [wanted(expression=f"cron(0 8 ? * {day} *)") for day in ("2#1", "2#2", "2#1")]
    assert sync(group, *those) == Done(created=2)
    assert {name.startswith(prefix("report")) for name in names(group)} == {True}


def test_schedules_of_other_groups_are_not_touched(group, cloud):
    other = Group(f"{group.name}-other")
    sync(other, wanted())
    sync(group, wanted("mine"))
    assert sync(group) == Done(deleted=1)
    assert len(names(other)) == 1
    assert sync(other) == Done(deleted=1)


def test_a_group_that_is_missing_is_made(group):
    missing = Group(f"{group.name}-missing")
    assert [name for name, _ in plan(missing, lambda: [wanted()]).create] == [wanted().name]
    assert sync(missing, wanted()) == Done(created=1)
    assert sync(missing) == Done(deleted=1)


def by_hand(group: Group, one: Wanted, **changes: Any) -> None:
    request = one.request(datetime.now(UTC)) | changes
    aws.client("scheduler").update_schedule(GroupName=group.name, **request)


@pytest.mark.parametrize(
    "changes",
    [
        {"State": "DISABLED"},
        {"ScheduleExpression": "cron(0 3 * * ? *)"},
        {"EndDate": datetime(2031, 1, 1, tzinfo=UTC)},
        {"FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 9}},
        {"Target": wanted(max_retries=3).request(datetime.now(UTC))["Target"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_somebody_changed_by_hand_is_repaired(group, changes):
    one = wanted()
    sync(group, one, wanted("other"))
    by_hand(group, one, **changes)
    planned = plan(group, lambda: [one, wanted("other")])
    assert [name for name, _ in planned.repair] == [one.name]
    assert sync(group, one, wanted("other")) == Done(repaired=1, unchanged=1)
    assert one.is_as(group.find(one.name), datetime.now(UTC))
    assert sync(group, one, wanted("other")) == Done(unchanged=2)


def test_what_was_changed_by_hand_and_back_is_unchanged(group):
    one = wanted()
    sync(group, one)
    by_hand(group, one, State="DISABLED")
    by_hand(group, one)
    assert sync(group, one) == Done(unchanged=1)


def test_a_rate_starts_on_its_grid_and_a_shifted_one_is_put_back_on_it(group):
    anchor = datetime(1970, 1, 1, tzinfo=UTC)
    one = wanted(expression="rate(7 hours)", zone="UTC", anchor=anchor)
    sync(group, one)
    start = group.find(one.name)["StartDate"]
    assert (start - anchor) % timedelta(hours=7) == timedelta(0)
    assert timedelta(0) < start - datetime.now(UTC) <= timedelta(hours=7)
    assert sync(group, one) == Done(unchanged=1)
    for shift in (timedelta(minutes=1), timedelta(hours=14)):
        by_hand(group, one, StartDate=start + shift)
        assert sync(group, one) == Done(repaired=1)
        assert group.find(one.name)["StartDate"] == start


def test_what_has_ended_is_neither_created_nor_kept(group):
    soon = datetime.now(UTC) + timedelta(minutes=1)
    over = [
        wanted("past", ends_at=datetime.now(UTC) - timedelta(seconds=1)),
        wanted("no time left", expression="rate(300 days)", anchor=soon - timedelta(days=9), zone="UTC", ends_at=soon),
    ]
    assert sync(group, *over) == Done()
    sync(group, wanted("goes on"))
    assert names(group) == {wanted("goes on").name}


def test_one_that_aws_refuses_stops_no_other_and_its_old_version_goes_on(group):
    old = wanted("broken")
    sync(group, old)
    broken = wanted("broken", expression="cron(0 8 31 2 * *)")
    done = sync(group, wanted("a"), broken, wanted("b"))
    assert (done.created, done.deleted, list(done.failed)) == (2, 0, ["broken"])
    assert "cron(0 8 31 2 * *)" in done.failed["broken"]
    assert names(group) == {old.name, wanted("a").name, wanted("b").name}


def test_a_rate_that_is_none_is_told_in_the_same_way(group):
    anchor, ends = datetime(1970, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    broken = wanted("broken", expression="rate(0 minutes)", anchor=anchor, ends_at=ends)
    assert [name for name, _ in plan(group, lambda: [broken]).create] == [broken.name]
    done = sync(group, broken, wanted("a"))
    assert (done.created, list(done.failed)) == (1, ["broken"])
    assert "rate(0 minutes): a rate is a whole number" in done.failed["broken"]


def test_one_that_botocore_refuses_is_told_in_the_same_way(group):
    done = sync(group, wanted("no zone", zone=""), wanted("a"))
    assert (done.created, list(done.failed)) == (1, ["no zone"])
    assert "ScheduleExpressionTimezone" in done.failed["no zone"]


def test_what_is_saved_and_created_meanwhile_is_not_deleted(group):
    saved = wanted("saved meanwhile")
    sync(group, wanted("old"))

    def rows() -> Iterator[Wanted]:
        yield wanted("old")
        # Another process saves after our query was answered, and synchronises what it saved.
        synchronise_one(group, saved.logical, [saved], per_second=FAST)

    assert synchronise(group, rows, per_second=FAST) == Done(unchanged=1)
    assert names(group) == {wanted("old").name, saved.name}


def test_what_another_one_creates_or_deletes_meanwhile_is_no_error(group):
    sync(group, wanted("old"))

    def rows() -> Iterator[Wanted]:
        assert group.create(wanted("new").request(datetime.now(UTC)))
        assert group.delete(wanted("old").name)
        yield wanted("new")

    assert synchronise(group, rows, per_second=FAST) == Done(unchanged=1, deleted=1)
    assert names(group) == {wanted("new").name}


def test_one_logical_schedule_is_synchronised_with_no_look_at_the_others(group, asked):
    sync(group, wanted("one"), wanted("one more"), wanted("other"))
    new = wanted("one", expression="cron(0 9 ? * MON *)")
    asked.clear()
    assert synchronise_one(group, "one", [new], per_second=FAST) == Done(created=1, deleted=1)
    assert asked["ListSchedules"] == 1
    assert names(group) == {new.name, wanted("one more").name, wanted("other").name}
    assert synchronise_one(group, "one", [], per_second=FAST) == Done(deleted=1)
    assert names(group) == {wanted("one more").name, wanted("other").name}


def test_another_logical_schedule_is_refused(group):
    with pytest.raises(ValueError, match='schedule "two" was given for "one"'):
        synchronise_one(group, "one", [wanted("two")])


def test_a_plan_says_what_would_be_done_and_changes_nothing(group, asked):
    kept, old, new = wanted("kept"), wanted("changed"), wanted("changed", expression="cron(5 8 ? * MON *)")
    assert [name for name, _ in plan(group, lambda: [kept]).create] == [kept.name]
    sync(group, kept, old)
    asked.clear()
    made = plan(group, lambda: [kept, new])
    assert ([name for name, _ in made.create], made.delete, made.unchanged) == ([new.name], [old.name], 1)
    assert str(made).splitlines() == [
        f'+ {new.name}: "changed" cron(5 8 ? * MON *) Europe/Berlin',
        f"- {old.name}",
        "1 to create, 0 to repair, 1 to delete, 1 unchanged",
    ]
    assert not made.is_empty
    assert set(asked) == {"ListSchedules"}
    assert names(group) == {kept.name, old.name}
    assert plan(group, lambda: [kept, old]).is_empty


def test_what_does_not_fit_into_the_budget_is_left_and_done_by_the_next_call(group):
    those = [wanted(f"report {number}") for number in range(40)]
    sync(group, wanted("old"))
    first = synchronise(group, lambda: those, budget_seconds=0.5, per_second=40)
    assert 0 < first.created < 40
    assert first == Done(created=first.created, left=41 - first.created)
    assert not first.is_complete
    second = sync(group, *those)
    assert second == Done(created=40 - first.created, unchanged=first.created, deleted=1)
    assert synchronise(group, lambda: those, budget_seconds=0).left


def test_requests_are_paced(group):
    began = time.monotonic()
    synchronise(group, lambda: [wanted(f"report {number}") for number in range(30)], per_second=40)
    # Three requests beside the thirty, four of them at once.
    assert time.monotonic() - began >= (33 - 4) / 40 - 0.05


def throttle(
    times: int,
    status: int = 429,
    code: str = "ThrottlingException",
    methods: tuple[str, ...] = ("GET", "POST", "DELETE"),
) -> Counter[str]:
    """Have AWS refuse so many requests of each method, without botocore's own further tries."""
    client = aws.client("scheduler", config=Config(retries={"total_max_attempts": 1}))
    refused: Counter[str] = Counter()

    class Body:
        def stream(self) -> Iterator[bytes]:
            yield json.dumps({"Message": "Rate exceeded"}).encode()

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        if request.method not in methods or refused[request.method] >= times:
            return None
        refused[request.method] += 1
        return AWSResponse(request.url, status, {"x-amzn-ErrorType": code}, Body())

    client.meta.events.register("before-send.scheduler", answer)
    return refused


@pytest.mark.parametrize(("status", "code"), [(429, "ThrottlingException"), (500, "InternalServerException")])
def test_throttled_and_failed_requests_are_tried_again(group, status, code):
    refused = throttle(2, status, code)
    sync(group, wanted("old"))
    refused.clear()
    assert sync(group, wanted("a"), wanted("b")) == Done(created=2, deleted=1)
    assert refused == {"GET": 2, "POST": 2, "DELETE": 2}


def test_throttling_without_end_ends_with_the_budget(group):
    sync(group, wanted("old"))
    aws.forget_clients()
    throttle(10**6)
    assert synchronise(group, lambda: [wanted()], budget_seconds=0.4, per_second=FAST).left
    with pytest.raises(ClientError, match="Rate exceeded"):
        plan(group, list)


def test_a_lack_of_permission_is_raised_and_not_taken_for_a_faulty_schedule(group):
    throttle(1, 403, "AccessDeniedException", methods=("POST",))
    with pytest.raises(ClientError, match="AccessDenied"):
        sync(group, wanted())


CHILD = """
import sys
from tests.contract.test_scheduler_sync import FAST, wanted
from serverless.scheduler.groups import Group
from serverless.scheduler.sync import synchronise
print(synchronise(Group(sys.argv[1]), lambda: map(wanted, map(str, range(int(sys.argv[2])))), per_second=FAST))
"""


def child(group: Group, number: int) -> subprocess.Popen[str]:
    """A process that wants the schedules 0 to number."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, group.name, str(number)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_do_it_once(group):
    sync(group, *(wanted(f"old {number}") for number in range(250)))
    both = [child(group, 150) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert names(group) == {wanted(str(number)).name for number in range(150)}
    created = [int(text.split(" created")[0]) for text in said]
    assert sum(created) == 150


def test_one_that_was_killed_half_way_is_taken_up_again(group):
    process = child(group, 500)
    wait_for(lambda: len(names(group)) >= 60, "the first of them", 30)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    there = len(names(group))
    assert 60 <= there < 500
    done = sync(group, *(wanted(str(number)) for number in range(500)))
    assert done == Done(created=500 - there, unchanged=there)


def many(count: int, input_bytes: int = 4096) -> Iterator[Wanted]:
    return (wanted(f"report {number}", input="x" * input_bytes) for number in range(count))


@pytest.mark.slow
def test_ten_thousand_schedules_are_synchronised_in_bounded_memory(group):
    """Their definitions are 40 MB, of which a moment holds one."""
    count = 10_000
    assert synchronise(group, lambda: many(count), per_second=FAST) == Done(created=count)
    tracemalloc.start()
    try:
        assert synchronise(group, lambda: many(count), per_second=FAST) == Done(unchanged=count)
        half = synchronise(group, lambda: many(count // 2), per_second=FAST, budget_seconds=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert half.unchanged == count // 2
    assert half.deleted + half.left == count // 2
    assert half.left
    assert peak < 8 << 20
