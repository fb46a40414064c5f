"""One way through a queue that has no list: receive, hide, decide, and show again what was not taken."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Self

from serverless.broker import letters
from serverless.broker.letters import DeadLetter
from serverless.broker.options import MOST_ENTRIES
from serverless.broker.queue_calls import QueueCalls, QueueError

log = logging.getLogger("serverless.broker")

#: How long one request is tried again.
PATIENCE_SECONDS = 10.0
_PATIENCE_AT_THE_END_SECONDS = 3.0
#: A short poll asks some of SQS's servers only, and may find nothing where there is something.
_WAIT_SECONDS = 1


class Sweep:
    """One way through a queue: each message once, hidden until it is deleted or the sweep ends.

    deadline: time.monotonic() after which nothing more is begun. hidden: messages that could not be shown again.
    sure: no answer of a receive got lost so far, whose messages nobody saw and which stay hidden for a while.
    """

    def __init__(self, calls: QueueCalls, url: str, seconds: float, margin_seconds: int) -> None:
        self._calls = calls
        self._url = url
        self.deadline = time.monotonic() + seconds
        self._visibility_seconds = math.ceil(seconds) + margin_seconds
        #: Receipts, and until when they hold, by message id.
        self._held: dict[str, tuple[str, float]] = {}
        self._gone: set[str] = set()
        self.hidden = 0
        self.sure = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Show again what was not taken. What is no longer ours is left alone: somebody else may have it."""
        now = time.monotonic()
        receipts = [receipt for receipt, until in self._held.values() if until > now]
        for start in range(0, len(receipts), MOST_ENTRIES):
            entries = [
                {"ReceiptHandle": receipt, "VisibilityTimeout": 0} for receipt in receipts[start : start + MOST_ENTRIES]
            ]
            failures, error = self._calls.batch(
                "change_message_visibility_batch", self._url, entries, _PATIENCE_AT_THE_END_SECONDS
            )
            self.hidden += len(failures)
            if error is not None:
                log.warning("messages stay hidden for up to %d s: %s", self._visibility_seconds, error)
                self.hidden = len(receipts)
                return

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.deadline

    def receive(self, most: int) -> list[DeadLetter] | None:
        """Messages that were not seen before, up to ten; None if none at all is visible. Raises QueueError."""
        began = time.monotonic()
        answer, failed = self._calls.call(
            "receive_message",
            self._url,
            max(0.0, min(PATIENCE_SECONDS, self.deadline - began)),
            MaxNumberOfMessages=min(MOST_ENTRIES, most),
            WaitTimeSeconds=_WAIT_SECONDS,
            VisibilityTimeout=self._visibility_seconds,
            AttributeNames=["SentTimestamp", "MessageGroupId", "DeadLetterQueueSourceArn"],
            MessageAttributeNames=["All"],
        )
        self.sure = self.sure and not failed
        messages = answer.get("Messages", [])
        if not messages:
            return None
        fresh: dict[str, DeadLetter] = {}
        again: list[str] = []
        for letter in map(letters.read, messages):
            if letter.message_id in self._gone:
                # SQS may bring back what was deleted; its copy is where it should be.
                again.append(letter.receipt)
                continue
            if letter.message_id not in self._held:
                fresh[letter.message_id] = letter
            # SQS may hand a hidden message out once more; the last receipt is the one that is valid.
            self._held[letter.message_id] = (letter.receipt, began + self._visibility_seconds)
        if again:
            entries = [{"ReceiptHandle": receipt} for receipt in again]
            self._calls.batch("delete_message_batch", self._url, entries, PATIENCE_SECONDS)
        return list(fresh.values())

    def delete(self, done: Sequence[DeadLetter]) -> tuple[dict[str, str], QueueError | None]:
        """Delete at most ten. Reasons by message id where SQS did not; those stay hidden for the rest of their time."""
        if not done:
            return {}, None
        self._gone.update(letter.message_id for letter in done)
        entries = [{"ReceiptHandle": self._held.pop(letter.message_id)[0]} for letter in done]
        failures, error = self._calls.batch("delete_message_batch", self._url, entries, PATIENCE_SECONDS)
        return {done[index].message_id: failure.reason for index, failure in failures.items()}, error
