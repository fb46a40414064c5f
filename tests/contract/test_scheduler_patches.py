"""Each patch to moto's EventBridge Scheduler is still needed: when one fails, remove the patch and its test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from serverless import aws
from tests.contract.test_moto_patches import plain_moto

BEGIN = """
from moto.scheduler.models import EventBridgeSchedulerBackend
backend = EventBridgeSchedulerBackend("us-east-1", "123456789012")
backend.create_schedule_group("group", [])
def create(name, expression="cron(0 8 * * ? *)", zone="UTC", group="group", start=None):
    backend.create_schedule(description="", end_date=None, flexible_time_window={"Mode": "OFF"}, group_name=group,
        kms_key_arn=None, name=name, schedule_expression=expression, schedule_expression_timezone=zone,
        start_date=start, state=None, target={"Arn": "a"}, action_after_completion=None)
"""


def test_moto_loses_the_schedules_of_a_group_that_is_created_again():
    code = (
        BEGIN
        + "create('a'); backend.create_schedule_group('group', []); print(len(backend.list_schedules(None, None)[0]))"
    )
    assert plain_moto(code) == "0"


def test_moto_has_no_error_for_a_group_that_is_missing():
    code = """
try:
    create('a', group='missing')
except KeyError as error:
    print(error)
print(len(backend.list_schedules(['missing'], None)[0]))
"""
    assert plain_moto(BEGIN + code) == "'missing'\n0"


def test_moto_breaks_a_list_off_when_the_first_of_the_next_page_is_deleted():
    code = """
for name in "abc":
    create(name)
page, token = backend.list_schedules(['group'], None, max_results=1)
for name in "ab":
    backend.delete_schedule('group', name)
try:
    backend.list_schedules(['group'], None, max_results=1, next_token=token)
except Exception as error:
    print(type(error).__name__)
"""
    assert plain_moto(BEGIN + code) == "InvalidToken"


def test_moto_takes_anything_for_an_expression_a_zone_and_a_start():
    code = """
create('a', expression='every day'); create('b', zone='Mars/Olympus'); create('c', 'rate(5 minutes)', start=1000000000)
print(len(backend.list_schedules(None, None)[0]))
"""
    assert plain_moto(BEGIN + code) == "3"


def test_moto_leaves_a_schedule_without_a_state_after_an_update_that_names_none():
    code = """
create('a')
backend.update_schedule(description="", end_date=None, flexible_time_window={"Mode": "OFF"}, group_name="group",
    kms_key_arn=None, name="a", schedule_expression="cron(0 8 * * ? *)", schedule_expression_timezone="UTC",
    start_date=None, state=None, target={"Arn": "a"})
print(backend.get_schedule("group", "a").state)
"""
    assert plain_moto(BEGIN + code) == "None"


def create(name: str, group: str = "default", **changes: object) -> None:
    request = {
        "ScheduleExpression": "rate(5 minutes)",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": "arn:aws:sqs:us-east-1:123456789012:q",
            "RoleArn": "arn:aws:iam::123456789012:role/r",
            "Input": "x",
        },
    }
    aws.client("scheduler").create_schedule(Name=name, GroupName=group, **(request | changes))


@pytest.fixture
def group(cloud) -> Iterator[str]:
    made = f"group-{secrets.token_hex(4)}"
    aws.client("scheduler").create_schedule_group(Name=made)
    yield made
    aws.client("scheduler").delete_schedule_group(Name=made)


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_the_local_cloud_keeps_a_group_that_is_created_again(group):
    create("a", group)
    with pytest.raises(ClientError) as conflict:
        aws.client("scheduler").create_schedule_group(Name=group)
    assert code(conflict) == "ConflictException"
    assert len(aws.client("scheduler").list_schedules(GroupName=group)["Schedules"]) == 1


def test_the_local_cloud_knows_missing_groups(cloud):
    with pytest.raises(ClientError) as created:
        create("a", "missing")
    with pytest.raises(ClientError) as listed:
        aws.client("scheduler").list_schedules(GroupName="missing")
    assert code(created) == code(listed) == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ScheduleExpression": "every day"}, "Invalid Schedule Expression every day"),
        ({"ScheduleExpression": "cron(0 8 * * * *)"}, "Invalid Schedule Expression cron"),
        ({"ScheduleExpressionTimezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"StartDate": datetime.now(UTC) - timedelta(minutes=7)}, "earlier than 5 minutes ago"),
    ],
)
def test_the_local_cloud_refuses_what_aws_refuses(group, changes, reason):
    create("there", group)
    with pytest.raises(ClientError, match=reason) as created:
        create("a", group, **changes)
    assert code(created) == "ValidationException"
    request = {"FlexibleTimeWindow": {"Mode": "OFF"}, "ScheduleExpression": "rate(5 minutes)"}
    target = {"Arn": "arn:aws:sqs:us-east-1:123456789012:q", "RoleArn": "arn:aws:iam::123456789012:role/r"}
    with pytest.raises(ClientError, match=reason):
        aws.client("scheduler").update_schedule(Name="there", GroupName=group, Target=target, **(request | changes))


def test_the_local_cloud_enables_what_an_update_gives_no_state(group):
    create("a", group, State="DISABLED")
    target = {"Arn": "arn:aws:sqs:us-east-1:123456789012:q", "RoleArn": "arn:aws:iam::123456789012:role/r"}
    request = {"FlexibleTimeWindow": {"Mode": "OFF"}, "ScheduleExpression": "rate(5 minutes)", "Target": target}
    aws.client("scheduler").update_schedule(Name="a", GroupName=group, **request)
    (found,) = aws.client("scheduler").list_schedules(GroupName=group)["Schedules"]
    assert found["State"] == "ENABLED"


def test_the_local_cloud_takes_a_start_of_just_now_and_any_for_what_comes_once(group):
    create("a", group, StartDate=datetime.now(UTC) - timedelta(minutes=4))
    create("b", group, StartDate=datetime(2020, 1, 1, tzinfo=UTC), ScheduleExpression="at(2031-01-01T00:00:00)")


def test_a_list_goes_on_where_its_page_ended_whatever_is_deleted_and_created_meanwhile(group):
    scheduler = aws.client("scheduler")
    for name in ("b", "d", "f", "h", "j", "other"):
        create(name, group)
    page = scheduler.list_schedules(GroupName=group, MaxResults=2)
    seen = [found["Name"] for found in page["Schedules"]]
    for name in ("d", "f"):
        scheduler.delete_schedule(GroupName=group, Name=name)
    for name in ("a", "g"):
        create(name, group)
    while page.get("NextToken"):
        page = scheduler.list_schedules(GroupName=group, MaxResults=2, NextToken=page["NextToken"])
        seen += [found["Name"] for found in page["Schedules"]]
    assert seen == ["b", "d", "g", "h", "j", "other"]
    named = scheduler.list_schedules(GroupName=group, NamePrefix="ot")["Schedules"]
    assert [found["Name"] for found in named] == ["other"]
