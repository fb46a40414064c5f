"""What AWS says of the things that a stage is made of, asked by calls that only read: for `manage.py doctor`.

Each call is made once or twice, within seconds; what went wrong is told as a NotToldError, which says what to grant.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError

from serverless import aws

_CONFIG = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
_MISSING = {
    *("404", "NoSuchBucket", "NotFound", "ResourceNotFoundException"),
    *("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"),
}
_REFUSED = {
    *("403", "AccessDenied", "AccessDeniedException", "Forbidden", "KmsAccessDenied", "KMS.AccessDeniedException"),
    *("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
    *("ExpiredToken", "ExpiredTokenException", "RequestTimeTooSkewed"),
}
#: No connection has this id.
_NOBODY = {":pk": {"S": "C#nobody"}}


class Why(StrEnum):
    """Why AWS did not tell. MISSING: there is no such thing. REFUSED: it may not be asked. AWAY: anything else."""

    MISSING = "missing"
    REFUSED = "refused"
    AWAY = "away"


class NotToldError(Exception):
    """A call that gave no answer.

    action: the permission that it needs, such as sqs:GetQueueAttributes. reason: AWS's code and words.
    """

    def __init__(self, why: Why, action: str, reason: str) -> None:
        super().__init__(f"{action}: {reason}")
        self.why, self.action, self.reason = why, action, reason


@dataclass(frozen=True)
class Identity:
    """Who this process is to AWS, and what AWS's clock said.

    ahead_seconds: how far this machine's clock is ahead of AWS's at least, see certainly_ahead.
    """

    account: str
    arn: str
    ahead_seconds: float


@dataclass(frozen=True)
class QueueFacts:
    """A queue's attributes, in SQS's units. Messages are counted roughly. redrive: None where there is no policy."""

    arn: str
    visibility_seconds: int
    retention_seconds: int
    wait_seconds: int
    largest_bytes: int
    redrive: Mapping[str, Any] | None
    depth: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        return self.depth + self.in_flight + self.delayed


@dataclass(frozen=True)
class Quota:
    """Of mails in 24 hours."""

    most: float
    sent: float


def is_aws() -> bool:
    """Whether the endpoint is AWS's own, not a local cloud's."""
    host = urlsplit(_client("sqs").meta.endpoint_url).hostname or ""
    # The last two are those of AWS_USE_DUALSTACK_ENDPOINT.
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn"))


def identity(clock: Callable[[], float] = time.time) -> Identity:
    """Who we are; needs no permission. clock: this machine's, in seconds since 1970."""
    # Making the client takes a moment, which is not the answer's.
    _client("sts")
    before = clock()
    answer = _ask("sts", "get_caller_identity", "sts:GetCallerIdentity")
    after = clock()
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    there: datetime | None = parsedate_to_datetime(told) if told else None
    ahead = 0.0
    if there is not None:
        # The header has whole seconds, cut off.
        ahead = certainly_ahead(before, after, there.timestamp(), there.timestamp() + 1)
    return Identity(answer["Account"], answer["Arn"], ahead)


def certainly_ahead(before: float, after: float, earliest: float, latest: float) -> float:
    """How far a clock is ahead at least, below zero if it is behind; 0 where it may be right.

    before, after: by that clock, around the moment in which another one said that it is between earliest and latest.
    """
    if before > latest:
        return before - latest
    return min(0.0, after - earliest)


def queue(url: str) -> QueueFacts:
    """A queue by its URL."""
    told = _ask("sqs", "get_queue_attributes", "sqs:GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])
    of: Mapping[str, str] = told["Attributes"]
    return QueueFacts(
        arn=of["QueueArn"],
        visibility_seconds=int(of["VisibilityTimeout"]),
        retention_seconds=int(of["MessageRetentionPeriod"]),
        wait_seconds=int(of["ReceiveMessageWaitTimeSeconds"]),
        largest_bytes=int(of["MaximumMessageSize"]),
        redrive=json.loads(of["RedrivePolicy"]) if of.get("RedrivePolicy") else None,
        depth=int(of["ApproximateNumberOfMessages"]),
        in_flight=int(of["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(of["ApproximateNumberOfMessagesDelayed"]),
    )


def bucket(name: str) -> None:
    """That a bucket is there and may be listed."""
    _ask("s3", "head_bucket", "s3:ListBucket", Bucket=name)


def table(name: str) -> None:
    """That the table of sockets is there and may be read."""
    asked = {"TableName": name, "KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": _NOBODY, "Limit": 1}
    _ask("dynamodb", "query", "dynamodb:Query", **asked)


def schedule_group(name: str) -> None:
    """That a group of schedules is there and may be looked at."""
    _ask("scheduler", "get_schedule_group", "scheduler:GetScheduleGroup", Name=name)


def mail_quota() -> Quota:
    """How many mails may be sent in 24 hours, and how many were."""
    told = _ask("ses", "get_send_quota", "ses:GetSendQuota")
    return Quota(told["Max24HourSend"], told["SentLast24Hours"])


def _client(service: str) -> Any:
    # boto3's stubs know some services alone.
    make: Callable[..., Any] = aws.client
    return make(service, "inspection", config=_CONFIG)


def _ask(service: str, operation: str, action: str, **asked: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = getattr(_client(service), operation)(**asked)
    except ClientError as error:
        told = error.response.get("Error", {})
        code = told.get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        why = Why.MISSING if code in _MISSING else Why.REFUSED if code in _REFUSED or status == 403 else Why.AWAY
        words = " ".join(str(told.get("Message", "")).split())
        raise NotToldError(why, action, f"{code}: {words}"[:300]) from error
    except NoCredentialsError as error:
        raise NotToldError(Why.REFUSED, action, "this process has no credentials for AWS") from error
    except aws.ERRORS as error:
        raise NotToldError(Why.AWAY, action, f"{type(error).__name__}: {error}"[:300]) from error
    return answer
