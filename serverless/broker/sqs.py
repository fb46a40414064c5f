"""Calls to SQS: the clients, queues by name, and batches whose answer is read entry by entry."""

from __future__ import annotations

import json
import string
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from serverless import aws
from serverless.broker.errors import RemoteControlError, UndeclaredQueueError
from serverless.broker.options import Options, QueueOptions

#: Errors that a call may raise; OSError where urllib3 lets one through.
CALL_ERRORS = (*aws.ERRORS, OSError)

_REDRIVE_REMEMBERED_SECONDS = 300.0
#: SQS answers `{}` where there is no message; the shortest message has some hundred bytes.
_EMPTY_ANSWER_BYTES = 50
#: Dots become dashes, all other punctuation but dashes underscores.
_PUNCTUATION = {ord(each): "_" for each in string.punctuation if each not in "-_."} | {ord("."): "-"}
#: Of keys that are no longer, or not yet, known: the next try reads the credentials anew.
_ROTATED_KEYS = ("InvalidClientTokenId", "UnrecognizedClientException")
_MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}


@dataclass(frozen=True)
class Failure:
    """Why one entry of a batch failed. passing: worth another try."""

    reason: str
    passing: bool


@dataclass(frozen=True)
class Redrive:
    """A queue's redrive policy; empty where it has none. known: False where SQS does not let us ask."""

    dead_letter_url: str | None = None
    max_receives: int | None = None
    known: bool = True


class Sqs:
    """SQS as one connection uses it. Thread-safe; the clients are the process's own."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._found: dict[str, QueueOptions] = {}
        self._redrives: dict[str, tuple[float, Redrive]] = {}
        self._lock = threading.Lock()
        common: dict[str, Any] = {
            "connect_timeout": 5,
            # Our own retries know what may be repeated, and say it once a spell.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "max_pool_connections": 64,
            "tcp_keepalive": True,
            # What we send is built here; botocore's checks cost a fifth of a call.
            "parameter_validation": False,
            # Without one, botocore puts its own together anew for each request.
            "user_agent": f"Boto3/{boto3.__version__} serverless.broker",
        }
        config = Config(**{**common, "read_timeout": 10, **options.client_config})
        # A black hole must not hold a long poll for longer than it could take.
        polling = Config(**{**common, **options.client_config, "read_timeout": options.wait_time_seconds + 10})
        where = {"region_name": options.region, "endpoint_url": options.endpoint_url}
        self._arguments = {"config": config, **where}
        self._polling_arguments = {"config": polling, **where}
        # Connections with other options need other clients.
        self._purpose = (
            f"broker {options.region} {options.endpoint_url} {options.wait_time_seconds} "
            f"{sorted(options.client_config.items())}"
        )

    @property
    def client(self) -> Any:
        return aws.client("sqs", self._purpose, **self._arguments)

    @property
    def polling_client(self) -> Any:
        return aws.client("sqs", f"{self._purpose} polling", **self._polling_arguments)

    # Queues ----------------------------------------------------------------------------------------------------------

    def queue(self, name: str) -> QueueOptions:
        """A queue by the name that Celery uses. Raises UndeclaredQueueError."""
        declared = self.options.queues.get(name)
        if declared is not None:
            return declared
        if name.endswith(".pidbox") or name.startswith("celeryev"):
            raise RemoteControlError(
                f'queue "{name}" is for remote control or events, which Celery sends by broadcast, and SQS has none. '
                "Set worker_enable_remote_control=False. For liveness: python -m serverless.broker.liveness FILE."
            )
        if self.options.queues:
            raise UndeclaredQueueError(
                f'queue "{name}" is not among predefined_queues ({", ".join(sorted(self.options.queues))}). '
                "Add it with its URL, or name one of these, perhaps by task_default_queue or -Q."
            )
        if name not in self._found:
            self._found[name] = QueueOptions(name, url=self._find(name))
        return self._found[name]

    def _find(self, name: str) -> str:
        full = self.options.queue_name_prefix + sqs_name(name)
        try:
            return str(self.client.get_queue_url(QueueName=full)["QueueUrl"])
        except ClientError as error:
            if error.response["Error"]["Code"] not in _MISSING:
                raise
        if not self.options.create_missing_queues:
            raise UndeclaredQueueError(
                f'SQS has no queue "{full}". Create it, name it in predefined_queues, or set create_missing_queues.'
            )
        attributes = {"FifoQueue": "true"} if full.endswith(".fifo") else {}
        return str(self.client.create_queue(QueueName=full, Attributes=attributes)["QueueUrl"])

    def redrive(self, queue: QueueOptions) -> Redrive:
        """Where the queue's dead letters go. Asked of SQS at most once in five minutes, and only if not declared.

        Raises CALL_ERRORS.
        """
        if queue.dead_letter_url is not None and queue.max_receives is not None:
            return Redrive(queue.dead_letter_url, queue.max_receives)
        with self._lock:
            read_at, known = self._redrives.get(queue.url, (float("-inf"), Redrive()))
            if time.monotonic() - read_at < _REDRIVE_REMEMBERED_SECONDS:
                return known
        try:
            answer = self.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["RedrivePolicy"])
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("AccessDenied", "AccessDeniedException"):
                raise
            return self._remember(queue, Redrive(queue.dead_letter_url, queue.max_receives, known=False))
        policy = json.loads(answer.get("Attributes", {}).get("RedrivePolicy", "null")) or {}
        url = queue.dead_letter_url
        if url is None and "deadLetterTargetArn" in policy:
            name = policy["deadLetterTargetArn"].rpartition(":")[2]
            # A dead-letter queue is of the same account and region as its queue.
            url = f"{queue.url.rpartition('/')[0]}/{name}"
        receives = queue.max_receives or (int(policy["maxReceiveCount"]) if "maxReceiveCount" in policy else None)
        return self._remember(queue, Redrive(url, receives))

    def _remember(self, queue: QueueOptions, found: Redrive) -> Redrive:
        with self._lock:
            self._redrives[queue.url] = (time.monotonic(), found)
        return found

    # Calls -----------------------------------------------------------------------------------------------------------

    def receive(self, queue: QueueOptions, most: int, wait_seconds: int) -> list[dict[str, Any]]:
        """Messages, hidden for one lease. Raises CALL_ERRORS."""
        answer = self.polling_client.receive_message(
            QueueUrl=queue.url,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self.options.lease_seconds,
            AttributeNames=["ApproximateReceiveCount", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        length = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-length", "0")
        if not messages and int(length) > _EMPTY_ANSWER_BYTES:
            # boto3 reads an answer that broke off in its middle as an empty one; this queue is not.
            raise ConnectionError(f"the answer broke off, of {length} bytes")
        return messages

    def batch(
        self, operation: str, url: str, entries: Sequence[dict[str, Any]]
    ) -> tuple[dict[int, Failure], str | None]:
        """One batch request of at most ten entries, without Id.

        operation: send_message_batch, delete_message_batch or change_message_visibility_batch.
        Returns the failures by index, and what befell the request as a whole, if anything did. Never raises
        CALL_ERRORS.
        """
        numbered = [{**entry, "Id": str(index)} for index, entry in enumerate(entries)]
        try:
            answer = getattr(self.client, operation)(QueueUrl=url, Entries=numbered)
        except CALL_ERRORS as error:
            aws.renew_credentials(error)
            reason = describe(error)
            rotated = reason.startswith(_ROTATED_KEYS)
            failure = Failure(reason, passing=rotated or aws.is_passing(error) or not isinstance(error, aws.ERRORS))
            return dict.fromkeys(range(len(entries)), failure), reason
        done = {int(each["Id"]) for each in answer.get("Successful", ())}
        if len(done) == len(entries):
            return {}, None
        failures = {
            int(each["Id"]): Failure(
                f"{each.get('Code')}: {each.get('Message', '')}", passing=not each.get("SenderFault")
            )
            for each in answer.get("Failed", ())
        }
        missing = set(range(len(entries))) - done - set(failures)
        if missing:
            # boto3 reads an answer that broke off in its middle as an empty one.
            for index in missing:
                failures[index] = Failure("the answer broke off", passing=True)
            return failures, "the answer broke off"
        return failures, None


def describe(error: BaseException) -> str:
    """SQS's code and words, or the error of the connection, in one line."""
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code')}: {told.get('Message')}"
    return f"{type(error).__name__}: {error}"


def sqs_name(name: str) -> str:
    """A queue's name in the characters that SQS has: kombu's own rule, so that both find the same queue."""
    stem, fifo = (name[: -len(".fifo")], ".fifo") if name.endswith(".fifo") else (name, "")
    return stem.translate(_PUNCTUATION) + fifo
