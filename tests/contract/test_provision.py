"""What the local cloud has is what the topology says, however often it is provisioned."""

from __future__ import annotations

import dataclasses
import json

import boto3
import pytest

from serverless.local.cloud import NAMES_ARGUMENTS
from serverless.local.provision import Names, provision
from tasks.topology import TOPOLOGY

NAMES = Names(**NAMES_ARGUMENTS, web_origins=("http://testserver",))


@pytest.fixture
def sqs(cloud):
    return boto3.client("sqs", endpoint_url=cloud)


def attributes(sqs, name: str) -> dict[str, str]:
    url = sqs.get_queue_url(QueueName=NAMES.queue_prefix + name)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return {key: value for key, value in found.items() if "Timestamp" not in key and "Approximate" not in key}


def test_each_queue_has_its_settings_and_its_dead_letter_queue(sqs):
    for queue in TOPOLOGY.queues.values():
        has, dead = attributes(sqs, queue.name), attributes(sqs, queue.dead_letter_name)
        assert int(has["VisibilityTimeout"]) == TOPOLOGY.lease_seconds
        assert int(json.loads(has["RedrivePolicy"])["maxReceiveCount"]) == TOPOLOGY.max_receives
        assert int(has["MessageRetentionPeriod"]) == queue.retention_days * 86400
        assert json.loads(has["RedrivePolicy"])["deadLetterTargetArn"] == dead["QueueArn"]


def test_there_is_no_queue_that_the_topology_does_not_declare(sqs):
    urls = sqs.list_queues(QueueNamePrefix=NAMES.queue_prefix)["QueueUrls"]
    names = {url.rpartition("/")[2].removeprefix(NAMES.queue_prefix) for url in urls}
    declared = TOPOLOGY.queues.values()
    of_schedules = NAMES.schedule_dead_letter_queue.removeprefix(NAMES.queue_prefix)
    assert names == {queue.name for queue in declared} | {queue.dead_letter_name for queue in declared} | {of_schedules}


def test_provisioning_again_changes_nothing(cloud, sqs):
    before = {name: attributes(sqs, name) for name in TOPOLOGY.queues}
    provision(NAMES, cloud)
    provision(NAMES, cloud)
    assert {name: attributes(sqs, name) for name in TOPOLOGY.queues} == before


def test_provisioning_brings_a_changed_queue_back(cloud, sqs):
    url = sqs.get_queue_url(QueueName=f"{NAMES.queue_prefix}low")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "1"})
    provision(NAMES, cloud)
    assert int(attributes(sqs, "low")["VisibilityTimeout"]) == TOPOLOGY.lease_seconds


def test_a_changed_topology_is_followed(cloud, sqs):
    low = dataclasses.replace(TOPOLOGY.queue("low"), retention_days=1)
    changed = dataclasses.replace(TOPOLOGY, queues={**TOPOLOGY.queues, "low": low})
    try:
        provision(NAMES, cloud, changed)
        assert attributes(sqs, "low")["MessageRetentionPeriod"] == "86400"
    finally:
        provision(NAMES, cloud)


def test_provisioning_again_keeps_the_schedules_of_the_group(cloud):
    scheduler = boto3.client("scheduler", endpoint_url=cloud)
    target = {"Arn": "arn:aws:sqs:us-east-1:123456789012:cloudqueue-low", "RoleArn": "arn:aws:iam::123456789012:role/r"}
    scheduler.create_schedule(
        Name="kept",
        GroupName=NAMES.schedule_group,
        ScheduleExpression="cron(0 8 * * ? *)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=target,
    )
    try:
        provision(NAMES, cloud)
        listed = scheduler.list_schedules(GroupName=NAMES.schedule_group)["Schedules"]
        assert [schedule["Name"] for schedule in listed] == ["kept"]
    finally:
        scheduler.delete_schedule(Name="kept", GroupName=NAMES.schedule_group)
