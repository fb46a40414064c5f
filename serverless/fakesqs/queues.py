"""SQS's rules over queues in memory. No network and no clock of its own: time is passed in.

Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

MOST_ENTRIES = 10
LARGEST_BYTES = 1 << 20
LONGEST_DELAY_SECONDS = 900
LONGEST_VISIBILITY_SECONDS = 43_200
LONGEST_WAIT_SECONDS = 20
BILLED_UNIT_BYTES = 64 << 10
ACCOUNT_ID = "000000000000"
REGION = "us-east-1"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}(\.fifo)?")
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


class SQSError(Exception):
    """An error as SQS answers it. code: SQS's own, such as QueueDoesNotExist. status: of HTTP."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass
class Message:
    """One message in a queue. receipt: of the last receive, the only one that is valid. number: its place in a FIFO."""

    id: str
    body: str
    attributes: dict[str, Any]
    group: str | None
    deduplication: str | None
    sent_at: float
    receives: int = 0
    received_at: float | None = None
    receipt: str | None = None
    source_arn: str | None = None
    number: int = 0


@dataclass
class Queue:
    """One queue: what is ready, what is hidden until when, what is delayed until when."""

    name: str
    attributes: dict[str, str]
    ready: deque[Message] = field(default_factory=deque)
    hidden: dict[str, tuple[float, Message]] = field(default_factory=dict)
    #: (until, number, receipt) and (until, number, message): cheap to ask which comes first.
    hidden_order: list[tuple[float, int, str]] = field(default_factory=list)
    delayed: list[tuple[float, int, Message]] = field(default_factory=list)
    deduplicated: OrderedDict[str, tuple[float, Message]] = field(default_factory=OrderedDict)

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")

    @property
    def arn(self) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{self.name}"

    def setting(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    @property
    def redrive(self) -> dict[str, Any] | None:
        policy = self.attributes.get("RedrivePolicy")
        return json.loads(policy) if policy else None


class FakeSQS:
    """All queues of one account.

    url: put before a queue's name to make its URL.
    on_ready: called with a queue when messages may have become receivable, so that long polls can wake.
    """

    def __init__(self, url: str = f"http://127.0.0.1/{ACCOUNT_ID}/") -> None:
        self.url = url
        self.queues: dict[str, Queue] = {}
        self.on_ready: Callable[[Queue], None] = lambda queue: None
        self._number = itertools.count()

    # Queues ----------------------------------------------------------------------------------------------------------

    def create_queue(self, name: str, attributes: dict[str, str] | None = None) -> Queue:
        if not _NAME.fullmatch(name):
            raise SQSError(
                "InvalidParameterValue", f'Queue name "{name}" has a character or a length that SQS refuses.'
            )
        queue = self.queues.setdefault(name, Queue(name, {}))
        queue.attributes.update(attributes or {})
        return queue

    def queue(self, url: str) -> Queue:
        """The queue at a URL."""
        try:
            return self.queues[url.rsplit("/", 1)[-1]]
        except KeyError:
            raise SQSError("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.") from None

    def tick(self, queue: Queue, now: float) -> None:
        """Bring back what is no longer hidden or delayed."""
        returned = False
        while queue.delayed and queue.delayed[0][0] <= now:
            queue.ready.append(heapq.heappop(queue.delayed)[2])
            returned = True
        while queue.hidden_order and queue.hidden_order[0][0] <= now:
            until, _, receipt = heapq.heappop(queue.hidden_order)
            held = queue.hidden.get(receipt)
            # A change of visibility leaves the former order entry behind; it no longer counts.
            if held is not None and held[0] == until:
                self._show(queue, receipt)
                returned = True
        if returned:
            self.on_ready(queue)

    def next_change(self, queue: Queue) -> float | None:
        """When something comes back by itself, or None."""
        times = [order[0][0] for order in (queue.delayed, queue.hidden_order) if order]
        return min(times) if times else None

    def counts(self, queue: Queue) -> dict[str, int]:
        return {"visible": len(queue.ready), "in_flight": len(queue.hidden), "delayed": len(queue.delayed)}

    # Messages --------------------------------------------------------------------------------------------------------

    def send(self, queue: Queue, entry: dict[str, Any], now: float) -> Message:
        """entry: parameters of SendMessage."""
        size = entry_bytes(entry)
        if not entry.get("MessageBody"):
            raise SQSError("MissingParameter", "The request must contain the parameter MessageBody.")
        if size > LARGEST_BYTES:
            raise SQSError("InvalidParameterValue", f"One or more parameters are invalid. Message has {size} bytes.")
        delay = self._delay(queue, entry)
        group, key = entry.get("MessageGroupId"), entry.get("MessageDeduplicationId")
        if queue.fifo:
            if not group:
                raise SQSError("MissingParameter", "The request must contain the parameter MessageGroupId.")
            key = key or hashlib.sha256(entry["MessageBody"].encode()).hexdigest()
            while queue.deduplicated and next(iter(queue.deduplicated.values()))[0] <= now:
                queue.deduplicated.popitem(last=False)
            if key in queue.deduplicated:
                return queue.deduplicated[key][1]
        message = Message(
            str(uuid.uuid4()),
            entry["MessageBody"],
            entry.get("MessageAttributes") or {},
            group,
            key,
            sent_at=now,
            number=next(self._number),
        )
        if queue.fifo and key:
            queue.deduplicated[key] = (now + 300, message)
        if delay:
            heapq.heappush(queue.delayed, (now + delay, next(self._number), message))
        else:
            queue.ready.append(message)
            self.on_ready(queue)
        return message

    def receive(self, queue: Queue, most: int, visibility: int | None, now: float) -> list[Message]:
        """Hand out up to `most` messages and hide them. A message received too often goes to the dead-letter queue."""
        if not 1 <= most <= MOST_ENTRIES:
            raise SQSError("InvalidParameterValue", f"MaxNumberOfMessages={most} must be between 1 and 10.")
        self.tick(queue, now)
        seconds = queue.setting("VisibilityTimeout", 30) if visibility is None else visibility
        redrive = queue.redrive
        handed: list[Message] = []
        passed_over: list[Message] = []
        busy = {message.group for _, message in queue.hidden.values()} if queue.fifo else set()
        while queue.ready and len(handed) < most:
            message = queue.ready.popleft()
            if queue.fifo and message.group in busy and message.group not in {other.group for other in handed}:
                passed_over.append(message)
                continue
            if redrive and message.receives >= int(redrive["maxReceiveCount"]):
                self._dead_letter(queue, message, redrive)
                continue
            message.receives += 1
            message.received_at = now
            message.receipt = f"{message.id}#{next(self._number)}#{'x' * 120}"  # real handles are long
            self._hide(queue, message, now + seconds)
            handed.append(message)
        queue.ready.extendleft(reversed(passed_over))
        return handed

    def delete(self, queue: Queue, receipt: str) -> None:
        """Delete by receipt. As on SQS, an old receipt of a standard queue succeeds and may delete nothing."""
        if queue.hidden.pop(self._known(queue, receipt), None) is not None:
            self.on_ready(queue)

    def change_visibility(self, queue: Queue, receipt: str, seconds: int, now: float) -> None:
        if not 0 <= seconds <= LONGEST_VISIBILITY_SECONDS:
            raise SQSError("InvalidParameterValue", f"VisibilityTimeout={seconds} must be between 0 and 43200.")
        self.tick(queue, now)
        held = queue.hidden.get(self._known(queue, receipt))
        if held is None:
            raise SQSError("MessageNotInflight", "The message referred to is not in flight.")
        if now + seconds > (held[1].received_at or now) + LONGEST_VISIBILITY_SECONDS:
            raise SQSError("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit.")
        if seconds == 0:
            self._show(queue, receipt)
            self.on_ready(queue)
        else:
            self._hide(queue, held[1], now + seconds)

    def purge(self, queue: Queue) -> None:
        queue.ready.clear()
        queue.hidden.clear()
        queue.hidden_order.clear()
        queue.delayed.clear()

    def _delay(self, queue: Queue, entry: dict[str, Any]) -> int:
        asked = entry.get("DelaySeconds")
        if asked is not None and not 0 <= asked <= LONGEST_DELAY_SECONDS:
            raise SQSError("InvalidParameterValue", f"DelaySeconds={asked} must be between 0 and 900.")
        if asked and queue.fifo:
            raise SQSError("InvalidParameterValue", "DelaySeconds of a message is not valid for a FIFO queue.")
        return queue.setting("DelaySeconds", 0) if asked is None else asked

    def _hide(self, queue: Queue, message: Message, until: float) -> None:
        receipt = message.receipt or ""
        queue.hidden[receipt] = (until, message)
        heapq.heappush(queue.hidden_order, (until, next(self._number), receipt))

    def _show(self, queue: Queue, receipt: str) -> None:
        _, message = queue.hidden.pop(receipt)
        if queue.fifo:
            place = next(
                (place for place, other in enumerate(queue.ready) if other.number > message.number), len(queue.ready)
            )
            queue.ready.insert(place, message)
        else:
            queue.ready.append(message)

    def _known(self, queue: Queue, receipt: str) -> str:
        if not isinstance(receipt, str) or receipt.count("#") != 2:
            raise SQSError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        return receipt

    def _dead_letter(self, queue: Queue, message: Message, redrive: dict[str, Any]) -> None:
        dead = self.queue(redrive["deadLetterTargetArn"].replace(":", "/"))
        message.source_arn = queue.arn
        dead.ready.append(message)
        self.on_ready(dead)


def entry_bytes(entry: dict[str, Any]) -> int:
    """What counts against the size limit: the body, and names, types and values of message attributes."""
    size = len(entry.get("MessageBody", "").encode())
    for name, value in (entry.get("MessageAttributes") or {}).items():
        size += len(name.encode()) + len(value.get("DataType", "").encode())
        size += len((value.get("StringValue") or value.get("BinaryValue") or "").encode())
    return size


def billed_units(size: int) -> int:
    """Each started 64 KB of a request is billed as one."""
    return max(1, -(-size // BILLED_UNIT_BYTES))


def check_batch(entries: Iterable[dict[str, Any]]) -> None:
    """The rules of a whole batch; raises SQSError."""
    listed = list(entries)
    if not listed:
        raise SQSError("AWS.SimpleQueueService.EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(listed) > MOST_ENTRIES:
        raise SQSError("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", f"Maximum is 10, you sent {len(listed)}.")
    ids = [entry.get("Id", "") for entry in listed]
    if not all(_ENTRY_ID.fullmatch(entry_id) for entry_id in ids):
        raise SQSError("AWS.SimpleQueueService.InvalidBatchEntryId", "An entry's Id has a character that SQS refuses.")
    if len(set(ids)) != len(ids):
        raise SQSError("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "Two entries have the same Id.")
    size = sum(entry_bytes(entry) for entry in listed)
    if size > LARGEST_BYTES:
        raise SQSError(
            "AWS.SimpleQueueService.BatchRequestTooLong", f"Batch has {size} bytes; {LARGEST_BYTES} is the limit."
        )
