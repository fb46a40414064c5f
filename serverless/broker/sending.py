"""Sending: one message, or many ten to a request and several requests at once.

What SQS refuses for a while is sent again: of a batch, only the entries that failed. What SQS refuses for good, and
what still fails when publish_seconds are over, is reported with its task ids in a PublishError; all else was sent.

Where no answer comes (a connection that breaks after the request), nobody can know whether SQS took the messages. They
are sent again, since a task may come twice but must not get lost; on a FIFO queue the deduplication id, made before the
first try, keeps it to once.
"""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any

from serverless import aws
from serverless.broker import claim_checks, envelope
from serverless.broker.errors import DelayError, PublishError, Unsent
from serverless.broker.options import LARGEST_BYTES, LONGEST_DELAY_SECONDS, MOST_ENTRIES, QueueOptions
from serverless.broker.spells import pause_seconds
from serverless.broker.sqs import CALL_ERRORS, Failure, Sqs, describe

_LONGEST_PAUSE_SECONDS = 2.0
_LONGEST_GROUP = 128

_executors: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Outgoing:
    """One message, ready to be sent. size: in bytes, as SQS counts it against its limit."""

    queue: QueueOptions
    task_id: str | None
    entry: dict[str, Any]
    size: int


class Sender:
    """Makes SQS's entries of kombu's messages and sends them."""

    def __init__(self, sqs: Sqs) -> None:
        self._sqs = sqs
        self._options = sqs.options
        checks = sqs.options.claim_check
        self._claim_checks = claim_checks.ClaimChecks(sqs.options, checks) if checks else None

    def prepare(self, queue_name: str, message: dict[str, Any]) -> Outgoing | None:
        """What is to be sent for kombu's message; None if the delay hook keeps it.

        Raises UndeclaredQueueError, DelayError, ClaimCheckError, PublishError (over a mebibyte).
        """
        queue = self._sqs.queue(self._options.queue_at_priority(queue_name, message["properties"].get("priority")))
        headers, properties = message.get("headers") or {}, message["properties"]
        entry: dict[str, Any] = {}
        if "message_attributes" in properties:
            # They travel beside the body, not in it.
            entry["MessageAttributes"] = properties["message_attributes"]
            properties = {key: value for key, value in properties.items() if key != "message_attributes"}
            message = {**message, "properties": properties}
        task_id = headers.get("id")
        delay = self._delay_seconds(headers, properties)
        if delay > LONGEST_DELAY_SECONDS and not queue.fifo:
            if self._options.delay_hook is not None or not headers.get("retries"):
                self._keep_for_later(queue, message, delay)
                return None
            # Celery would drop a retry that cannot be sent. The worker that receives it early hides it until its eta.
            delay = LONGEST_DELAY_SECONDS
        if queue.fifo:
            # SQS takes no delay for a single message of a FIFO queue: the worker hides it until its eta.
            entry["MessageGroupId"] = self._group(headers, properties) or "default"
            entry["MessageDeduplicationId"] = properties.get("MessageDeduplicationId") or str(uuid.uuid4())
        else:
            group = self._group(headers, properties)
            if group:
                entry["MessageGroupId"] = group
            if delay > 0:
                entry["DelaySeconds"] = math.ceil(delay)
        text = envelope.encode(message, as_base64=self._options.base64)
        size = envelope.bytes_of(text, entry)
        if self._claim_checks is not None and size > self._claim_checks.threshold_bytes:
            light = self._check_in(self._claim_checks, message, queue, delay)
            text = envelope.encode(light, as_base64=self._options.base64)
            size = envelope.bytes_of(text, entry)
        if size > LARGEST_BYTES:
            remedy = "Shorten its headers." if self._claim_checks else "Set the transport option claim_check."
            reason = f"it has {size} bytes and SQS takes {LARGEST_BYTES}. {remedy}"
            raise PublishError([Unsent(task_id, queue.name, reason, passing=False)], 0)
        entry["MessageBody"] = text
        return Outgoing(queue, task_id, entry, size)

    def _check_in(
        self, checks: claim_checks.ClaimChecks, message: dict[str, Any], queue: QueueOptions, delay: float
    ) -> dict[str, Any]:
        """Put the body into S3, with the same patience as for SQS. Raises PublishError, ClaimCheckError."""
        deadline, tries = self._deadline(), 0
        while True:
            try:
                return checks.check_in(message, queue, delay)
            except CALL_ERRORS as error:
                tries += 1
                pause = pause_seconds(tries, _LONGEST_PAUSE_SECONDS)
                passing = aws.is_passing(error)
                if not passing or time.monotonic() + pause > deadline:
                    reason = f"its body cannot be put into {checks.place}: {describe(error)}"
                    task_id = (message.get("headers") or {}).get("id")
                    raise PublishError([Unsent(task_id, queue.name, reason, passing)], 0) from error
                time.sleep(pause)

    def _delay_seconds(self, headers: dict[str, Any], properties: dict[str, Any]) -> float:
        """From an explicit DelaySeconds, else from the task's eta."""
        for key in ("delay_seconds", "DelaySeconds"):
            asked = properties.get(key)
            if asked is not None:
                if isinstance(asked, bool) or not isinstance(asked, int | float) or asked < 0:
                    raise DelayError(f"{key}={asked!r} must be a number of seconds, 0 or more.")
                return float(asked)
        return envelope.seconds_until_eta(headers, datetime.now(UTC))

    def _keep_for_later(self, queue: QueueOptions, message: dict[str, Any], delay: float) -> None:
        if self._options.delay_hook is None:
            headers = message.get("headers") or {}
            raise DelayError(
                f'task {headers.get("task")} to queue "{queue.name}" is delayed by {delay:.0f} s; SQS delays by '
                f"{LONGEST_DELAY_SECONDS} at most. Use a shorter countdown, a schedule, or set the transport option "
                "delay_hook to something that keeps it until then."
            )
        self._options.delay_hook(queue.name, message, delay)

    def _group(self, headers: dict[str, Any], properties: dict[str, Any]) -> str | None:
        group = properties.get("MessageGroupId")
        if group is None and self._options.group_header:
            group = headers.get(self._options.group_header)
        return None if group is None else group_id(str(group))

    # Requests --------------------------------------------------------------------------------------------------------

    def send(self, outgoing: Outgoing) -> None:
        """Send one. Raises PublishError."""
        failures = self._send_batch([outgoing], self._deadline())
        if failures:
            failure = failures[0]
            raise PublishError([Unsent(outgoing.task_id, outgoing.queue.name, failure.reason, failure.passing)], 0)

    def send_all(self, outgoing: Sequence[Outgoing]) -> None:
        """Send all, ten to a request, requests side by side. Raises PublishError once all was tried."""
        deadline = self._deadline()
        batches = list(_batches(outgoing))
        work: list[Callable[[], list[tuple[Outgoing, Failure]]]]
        work = [partial(self._outcome, batch, deadline) for batch in batches if not batch[0].queue.fifo]
        ordered = [batch for batch in batches if batch[0].queue.fifo]
        if ordered:
            # The order within a FIFO queue is that of the calls.
            work.append(lambda: [failed for batch in ordered for failed in self._outcome(batch, deadline)])
        if len(work) <= 1 or self._options.senders == 1:
            results = [one() for one in work]
        else:
            results = list(_executor(self._options.senders).map(lambda one: one(), work))
        unsent = [
            Unsent(each.task_id, each.queue.name, failure.reason, failure.passing)
            for result in results
            for each, failure in result
        ]
        if unsent:
            raise PublishError(unsent, len(outgoing) - len(unsent))

    def _deadline(self) -> float:
        return time.monotonic() + self._options.publish_seconds

    def _outcome(self, batch: list[Outgoing], deadline: float) -> list[tuple[Outgoing, Failure]]:
        return [(batch[index], failure) for index, failure in self._send_batch(batch, deadline).items()]

    def _send_batch(self, batch: list[Outgoing], deadline: float) -> dict[int, Failure]:
        """Send at most ten to one queue; the failures that remain, by index."""
        left = list(range(len(batch)))
        final: dict[int, Failure] = {}
        tries = 0
        while True:
            failures, _ = self._sqs.batch(
                "send_message_batch", batch[0].queue.url, [batch[index].entry for index in left]
            )
            if not failures:
                return final
            passing = {left[index]: failure for index, failure in failures.items() if failure.passing}
            final |= {left[index]: failure for index, failure in failures.items() if not failure.passing}
            tries += 1
            pause = pause_seconds(tries, _LONGEST_PAUSE_SECONDS)
            if not passing or time.monotonic() + pause > deadline:
                return final | passing
            time.sleep(pause)
            left = list(passing)


class PublishBatch:
    """The buffer of kombu's `Producer.batch()`: sent when it is full, and when the block ends without an error.

    An exception in the block discards what is still buffered. after_task_publish has been sent for it by then: it says
    that the message was taken for sending, as everywhere in kombu's batches.
    """

    def __init__(self, channel: Any, sender: Sender, max_size: int) -> None:
        self.channel = channel
        self._sender = sender
        self._max_size = max_size
        self._buffer: list[Outgoing] = []
        self._sent = 0
        self._over = ""

    def publish(self, message: dict[str, Any], **options: Any) -> Any:
        """Route one message; it comes back through `add`."""
        self._check_usable()
        try:
            return self.channel.basic_publish(message, _publish_batch=self, **options)
        except PublishError as error:
            # It ends the block, which discards what is buffered: that was not sent either.
            reason = f"given up together with task {error.unsent[0].task_id}"
            others = [Unsent(each.task_id, each.queue.name, reason) for each in self._buffer]
            raise PublishError([*error.unsent, *others], self._sent) from error

    def add(self, outgoing: Outgoing) -> None:
        self._buffer.append(outgoing)
        if len(self._buffer) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered. Raises PublishError; what it does not name was sent, and nothing stays buffered."""
        self._check_usable()
        buffer, self._buffer = self._buffer, []
        if buffer:
            self._sender.send_all(buffer)
            self._sent += len(buffer)

    def discard(self) -> None:
        self._over = "was given up after an error"
        self._buffer = []

    def close(self) -> None:
        self._over = self._over or "is closed"
        self._buffer = []

    def _check_usable(self) -> None:
        if self._over:
            raise RuntimeError(f"This publish batch {self._over}. Begin a new one.")


def group_id(text: str) -> str:
    """A MessageGroupId of any text: itself where SQS takes it, else its hash."""
    if 0 < len(text) <= _LONGEST_GROUP and text.isascii() and text.isprintable() and " " not in text:
        return text
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _batches(outgoing: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """At most ten of one queue, and a mebibyte, each; in order within a queue."""
    by_queue: dict[str, list[Outgoing]] = {}
    for each in outgoing:
        by_queue.setdefault(each.queue.url, []).append(each)
    for listed in by_queue.values():
        batch: list[Outgoing] = []
        size = 0
        for each in listed:
            if batch and (len(batch) == MOST_ENTRIES or size + each.size > LARGEST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(each)
            size += each.size
        if batch:
            yield batch


def _executor(senders: int) -> ThreadPoolExecutor:
    """This process's sending threads; a forked child makes its own."""
    pid = os.getpid()
    with _lock:
        if pid not in _executors:
            _executors[pid] = ThreadPoolExecutor(senders, thread_name_prefix="sqs-send")
        return _executors[pid]


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - a lock that the parent held at the fork would stay held for ever
    _lock = threading.Lock()
    _executors.clear()


os.register_at_fork(after_in_child=_after_fork)
