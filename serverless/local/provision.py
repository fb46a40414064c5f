"""Creates in the local cloud what Terraform creates on AWS: queues from the topology, bucket, table of sockets, sender.

Safe to repeat: what is there already is brought to the wanted settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import boto3

from serverless.websockets import table
from tasks.topology import TOPOLOGY, Topology

DEAD_LETTER_RETENTION_SECONDS = 14 * 86400
#: Where bodies lie that are too large for a message, and for how many days, by the second part of their keys.
CLAIM_CHECK_PREFIX = "claim-checks/"
CLAIM_CHECK_RETENTION_DAYS = (30, 400)


@dataclass(frozen=True)
class Names:
    """What the stack's parts are called.

    queue_prefix: put before each queue's logical name.
    web_origins: origins whose pages may upload straight to the bucket.
    schedule_dead_letter_queue: where EventBridge puts what it could not deliver.
    sockets_table: connections and groups of the WebSocket API.
    """

    queue_prefix: str
    bucket: str
    sender: str
    web_origins: tuple[str, ...]
    schedule_group: str
    schedule_dead_letter_queue: str
    sockets_table: str


def provision(names: Names, endpoint_url: str, topology: Topology = TOPOLOGY) -> None:
    """Bring the cloud at endpoint_url to what the topology says."""
    session = boto3.session.Session()

    def client(service: Any) -> Any:
        return session.client(service, endpoint_url=endpoint_url)

    _queues(client("sqs"), names.queue_prefix, topology)
    _queue(client("sqs"), names.schedule_dead_letter_queue, {"MessageRetentionPeriod": DEAD_LETTER_RETENTION_SECONDS})
    _schedule_group(client("scheduler"), names.schedule_group)
    _sockets_table(client("dynamodb"), names.sockets_table)
    _bucket(client("s3"), names)
    client("ses").verify_email_identity(EmailAddress=names.sender)


def _queues(sqs: Any, prefix: str, topology: Topology) -> None:
    for queue in topology.queues.values():
        dead = _queue(sqs, prefix + queue.dead_letter_name, {"MessageRetentionPeriod": DEAD_LETTER_RETENTION_SECONDS})
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": topology.max_receives}
        _queue(
            sqs,
            prefix + queue.name,
            {
                "VisibilityTimeout": topology.lease_seconds,
                "MessageRetentionPeriod": queue.retention_days * 86400,
                "ReceiveMessageWaitTimeSeconds": 20,
                "RedrivePolicy": json.dumps(redrive),
            },
        )


def _queue(sqs: Any, name: str, attributes: dict[str, Any]) -> str:
    texts = {key: str(value) for key, value in attributes.items()}
    try:
        url: str = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    except sqs.exceptions.QueueDoesNotExist:
        url = sqs.create_queue(QueueName=name, Attributes=texts)["QueueUrl"]
    else:
        sqs.set_queue_attributes(QueueUrl=url, Attributes=texts)
    return url


def _schedule_group(scheduler: Any, name: str) -> None:
    try:
        scheduler.create_schedule_group(Name=name)
    except scheduler.exceptions.ConflictException:
        # It is there, with its schedules.
        pass


def _sockets_table(dynamodb: Any, name: str) -> None:
    try:
        dynamodb.create_table(**table.definition(name))
    except dynamodb.exceptions.ResourceInUseException:
        # It is there, with its connections.
        pass
    described = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    # Where it is switched on already, switching it on is an error.
    if described.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        dynamodb.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": table.TTL_ATTRIBUTE}
        )


def _bucket(s3: Any, names: Names) -> None:
    if names.bucket not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=names.bucket)
    rule = {
        "AllowedOrigins": list(names.web_origins),
        "AllowedMethods": ["POST"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "Location"],
        "MaxAgeSeconds": 3000,
    }
    s3.put_bucket_lifecycle_configuration(
        Bucket=names.bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": f"claim-checks-{days}d",
                    "Status": "Enabled",
                    "Filter": {"Prefix": f"{CLAIM_CHECK_PREFIX}{days}d/"},
                    "Expiration": {"Days": days},
                }
                for days in CLAIM_CHECK_RETENTION_DAYS
            ]
        },
    )
    s3.put_bucket_cors(Bucket=names.bucket, CORSConfiguration={"CORSRules": [rule]})
