"""Calls on a queue for those who look after it: tried again for a bounded time, with errors that say what to do.

Workers have calls of their own (sqs.py, settling.py), which are tried again for ever.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serverless import aws
from serverless.broker.errors import BrokerError
from serverless.broker.options import Options
from serverless.broker.spells import pause_seconds
from serverless.broker.sqs import CALL_ERRORS, Failure, Sqs, describe

#: Region and endpoint are the environment's.
ENVIRONMENT = Options()
#: Of one request; somebody waits for the page.
CONNECT_SECONDS, READ_SECONDS = 3, 5
_LONGEST_PAUSE_SECONDS = 2.0
#: SQS answers `{}` where there is nothing to tell.
_EMPTY_ANSWER_BYTES = 50
_BROKE_OFF = "the answer broke off"

_UNKNOWN = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress")
_NO_ACCESS = (
    *("AccessDenied", "AccessDeniedException", "KmsAccessDenied", "KMS.AccessDeniedException", "SignatureDoesNotMatch"),
    *("InvalidClientTokenId", "UnrecognizedClientException", "NoCredentialsError", "MissingAuthenticationToken"),
)
#: The permission that each operation needs.
_PERMISSIONS = {
    "send_message_batch": "SendMessage",
    "delete_message_batch": "DeleteMessage",
    "change_message_visibility_batch": "ChangeMessageVisibility",
    "receive_message": "ReceiveMessage",
    "get_queue_attributes": "GetQueueAttributes",
}


class QueueError(BrokerError):
    """A call on a queue that failed.

    queue_url: of the queue. action: the permission that the call needs, such as ReceiveMessage.
    reason: SQS's code and words, or the error of the connection.
    """

    _text = '"{name}" ({url}): SQS refuses {action}: {reason}. Correct what it names.'

    def __init__(self, queue_url: str, action: str, reason: str) -> None:
        super().__init__(queue_url, action, reason)
        self.queue_url, self.action, self.reason = queue_url, action, reason

    @property
    def queue(self) -> str:
        """The queue's name, as SQS has it."""
        return self.queue_url.rpartition("/")[2]

    def __str__(self) -> str:
        return "queue " + self._text.format(
            name=self.queue, url=self.queue_url, action=self.action, reason=self.reason.rstrip(". ")
        )


class UnknownQueueError(QueueError):
    """SQS has no queue at this URL."""

    _text = (
        '"{name}": SQS has no queue at {url} ({action}: {reason}). Correct account, region and name of the URL, or '
        "create the queue."
    )


class QueueAccessError(QueueError):
    """SQS does not let us: a permission is missing, or the credentials are wrong."""

    _text = '"{name}" ({url}): {action} is not allowed: {reason}. Grant sqs:{action} on it to this process\'s role.'


class QueueUnavailableError(QueueError):
    """No good answer for as long as it was tried: throttling, errors on AWS's side, no connection."""

    _text = '"{name}" ({url}): {action} failed each time it was tried, last with: {reason}. Try again later.'


def queue_error(url: str, operation: str, reason: str, *, passing: bool) -> QueueError:
    """The error for a failed call. operation: boto3's name. reason: as `describe` words it."""
    code = reason.partition(":")[0]
    kind: type[QueueError] = QueueError
    if code in _UNKNOWN:
        kind = UnknownQueueError
    elif code in _NO_ACCESS:
        kind = QueueAccessError
    elif passing:
        kind = QueueUnavailableError
    return kind(url, _PERMISSIONS.get(operation, operation), reason)


class QueueCalls:
    """SQS's operations by URL. Thread-safe; holds no connection: the clients are the process's own."""

    def __init__(self, options: Options = ENVIRONMENT) -> None:
        limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        self._sqs = Sqs(replace(options, client_config={**limits, **options.client_config}))

    def prepare(self) -> None:
        """Make the client now, which takes a moment of this process's own the first time."""
        _ = self._sqs.client

    def call(self, operation: str, url: str, seconds: float, **parameters: Any) -> tuple[dict[str, Any], int]:
        """One request, tried again for so many seconds while the trouble may pass. Raises QueueError.

        Returns the answer and how many tries failed before it. What those did is not known: a receive that failed may
        have hidden messages.
        A try that has begun is not cut short: it may take CONNECT_SECONDS + READ_SECONDS longer.
        """
        deadline = time.monotonic() + seconds
        tries = 0
        while True:
            try:
                answer: dict[str, Any] = getattr(self._sqs.client, operation)(QueueUrl=url, **parameters)
                if not _broke_off(answer):
                    return answer, tries
                reason, passing = _BROKE_OFF, True
            except CALL_ERRORS as error:
                renewed = aws.renew_credentials(error)
                reason = describe(error)
                passing = renewed or aws.is_passing(error) or not isinstance(error, aws.ERRORS)
            tries += 1
            pause = pause_seconds(tries, _LONGEST_PAUSE_SECONDS)
            if not passing or time.monotonic() + pause > deadline:
                raise queue_error(url, operation, reason, passing=passing)
            time.sleep(pause)

    def batch(
        self, operation: str, url: str, entries: Sequence[dict[str, Any]], seconds: float
    ) -> tuple[dict[int, Failure], QueueError | None]:
        """At most ten entries without Id; what may pass is tried again for so many seconds, and only what failed.

        Returns the failures that remain, by index, and the error if it was not single entries that failed but, in the
        last try, the request as a whole.
        """
        deadline = time.monotonic() + seconds
        left = list(range(len(entries)))
        final: dict[int, Failure] = {}
        tries = 0
        while True:
            failures, befell = self._sqs.batch(operation, url, [entries[index] for index in left])
            passing = {left[index]: failure for index, failure in failures.items() if failure.passing}
            final |= {left[index]: failure for index, failure in failures.items() if not failure.passing}
            tries += 1
            pause = pause_seconds(tries, _LONGEST_PAUSE_SECONDS)
            if not passing or time.monotonic() + pause > deadline:
                error = queue_error(url, operation, befell, passing=bool(passing)) if befell is not None else None
                return final | passing, error
            time.sleep(pause)
            left = list(passing)


def _broke_off(answer: dict[str, Any]) -> bool:
    """boto3 reads an answer that broke off in its middle as an empty one."""
    about = answer.get("ResponseMetadata", {})
    length = about.get("HTTPHeaders", {}).get("content-length", "0")
    return not set(answer) - {"ResponseMetadata"} and int(length) > _EMPTY_ANSWER_BYTES
