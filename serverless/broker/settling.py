"""Telling SQS what became of messages: deleted, handed back, dead-lettered. In batches, by threads, for ever if needed.

The caller is Celery's event loop, which must not wait for the network. A message stays leased until SQS has confirmed,
so whatever fails here is tried again until it works; only the end of the process cuts that short, and then SQS shows
the message again when its lease is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serverless.broker import envelope
from serverless.broker.holdings import Delivery, Holdings
from serverless.broker.options import LARGEST_BYTES, MOST_ENTRIES
from serverless.broker.spells import Spell
from serverless.broker.sqs import Sqs

log = logging.getLogger("serverless.broker")

_MOST_THREADS = 4
#: Between two tries while the process stops.
_HURRIED_PAUSE_SECONDS = 0.2
#: SQS's words for a receipt that no longer holds anything: somebody else has the message, or it is gone.
_LEASE_IS_LOST = ("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue")
#: SQS's words for a batch over its limit; if it is of one message, that one is too large.
_TOO_LARGE = ("BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong")


@dataclass(eq=False)
class Step:
    """One request to be made for one delivery; `then` follows when SQS has confirmed it, else the delivery is dropped.

    entry: of the batch, without Id. ready_at: time.monotonic() before which it waits for others, or for its next try.
    """

    operation: str
    url: str
    delivery: Delivery
    entry: dict[str, Any]
    ready_at: float = 0.0
    then: Step | None = None
    on_refused: Callable[[Step, str], Step | None] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes that count against SQS's limit."""
        return envelope.bytes_of(self.entry["MessageBody"], self.entry) if "MessageBody" in self.entry else 0


class Settler:
    """Batches of deletions, visibility changes and sends, each queue and operation apart.

    unlease: called before a message is made visible, so that a late renewal does not hide it again.
    """

    def __init__(self, sqs: Sqs, holdings: Holdings, unlease: Callable[[Delivery], None]) -> None:
        self._sqs = sqs
        self._holdings = holdings
        self._unlease = unlease
        self._condition = threading.Condition()
        self._waiting: dict[tuple[str, str], deque[Step]] = defaultdict(deque)
        self._sending = 0
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._hurry = False
        self._closed = False
        self._spells: dict[tuple[str, str], Spell] = {}
        #: Until when nothing is sent, by queue and operation, after a request that failed as a whole.
        self._paused: dict[tuple[str, str], float] = {}

    # What may become of a message ------------------------------------------------------------------------------------

    def delete(self, delivery: Delivery) -> None:
        """It is done: delete it, with nine others or after the linger."""
        self._put(self._deletion(delivery, self._sqs.options.ack_linger_seconds))

    def hand_back(self, delivery: Delivery, seconds: int = 0) -> None:
        """Make it visible after so many seconds; 0 is at once."""
        self._put(
            Step(
                "change_message_visibility_batch",
                delivery.queue.url,
                delivery,
                {"ReceiptHandle": delivery.receipt, "VisibilityTimeout": seconds},
                time.monotonic() + 0.005,
            )
        )

    def replace(self, delivery: Delivery, url: str, entry: dict[str, Any], **more: Any) -> None:
        """Send `entry` to a queue and, once SQS has it, delete the message.

        A process that dies in between leaves both: rather twice than never.
        """
        step = Step("send_message_batch", url, delivery, entry, time.monotonic() + 0.005, **more)
        step.then = self._deletion(delivery, 0.0)
        self._put(step)

    def _deletion(self, delivery: Delivery, linger: float) -> Step:
        entry = {"ReceiptHandle": delivery.receipt}
        return Step("delete_message_batch", delivery.queue.url, delivery, entry, time.monotonic() + linger)

    # Threads ---------------------------------------------------------------------------------------------------------

    def _put(self, step: Step) -> None:
        with self._condition:
            bucket = self._waiting[step.operation, step.url]
            bucket.append(step)
            if self._idle == 0 and len(self._threads) < _MOST_THREADS:
                self._start_thread()
            elif len(bucket) == 1 or len(bucket) % MOST_ENTRIES == 0 or step.operation != "delete_message_batch":
                self._condition.notify()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"sqs-settle-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._condition:
                batch = self._take()
                while not batch:
                    if self._closed:
                        return
                    self._idle += 1
                    self._condition.wait(self._seconds_to_wait())
                    self._idle -= 1
                    batch = self._take()
                self._sending += len(batch)
            try:
                self._send(batch)
            except Exception:
                log.exception("a batch of %s could not be settled and is tried again", batch[0].operation)
                self._again(batch, 5.0)
            finally:
                with self._condition:
                    self._sending -= len(batch)
                    self._condition.notify_all()

    def _take(self) -> list[Step]:
        """Up to ten steps of one queue and operation that wait no longer; the fullest first."""
        now = time.monotonic()
        best: deque[Step] | None = None
        for key, bucket in self._waiting.items():
            due = (
                bool(bucket)
                and self._paused.get(key, 0.0) <= now
                and (self._hurry or len(bucket) >= MOST_ENTRIES or bucket[0].ready_at <= now)
            )
            if due and (best is None or len(bucket) > len(best)):
                best = bucket
        if best is None:
            return []
        batch = [best.popleft()]
        size = batch[0].size
        while best and len(batch) < MOST_ENTRIES and size + best[0].size <= LARGEST_BYTES:
            size += best[0].size
            batch.append(best.popleft())
        return batch

    def _seconds_to_wait(self) -> float | None:
        first = [max(bucket[0].ready_at, self._paused.get(key, 0.0)) for key, bucket in self._waiting.items() if bucket]
        return max(0.0, min(first) - time.monotonic()) if first else None

    def _send(self, batch: list[Step]) -> None:
        operation, url = batch[0].operation, batch[0].url
        if operation == "change_message_visibility_batch":
            for step in batch:
                self._unlease(step.delivery)
        failures, befell = self._sqs.batch(operation, url, [step.entry for step in batch])
        spell = self._spell(operation, url)
        again: list[Step] = []
        for index, step in enumerate(batch):
            failure = failures.get(index)
            if failure is None:
                self._confirmed(step)
            elif failure.passing or (befell is not None and not (len(batch) == 1 and befell.startswith(_TOO_LARGE))):
                again.append(step)
            else:
                self._refused(step, failure.reason)
        if again:
            self._again(again, spell.failed(befell or failures[batch.index(again[0])].reason))
        else:
            spell.worked()

    def _again(self, steps: list[Step], pause: float) -> None:
        with self._condition:
            key = (steps[0].operation, steps[0].url)
            self._waiting[key].extendleft(reversed(steps))
            self._paused[key] = time.monotonic() + (min(pause, _HURRIED_PAUSE_SECONDS) if self._hurry else pause)
            self._condition.notify_all()

    def _confirmed(self, step: Step) -> None:
        if step.then is not None:
            self._put(step.then)
        else:
            self._holdings.drop(step.delivery)

    def _refused(self, step: Step, reason: str) -> None:
        """SQS will never carry it out."""
        if step.on_refused is not None:
            instead = step.on_refused(step, reason)
            if instead is not None:
                self._put(instead)
                return
        if reason.startswith(_LEASE_IS_LOST):
            # Another worker has it by now, or it is deleted already: nothing is left to do here.
            log.warning(
                'queue "%s": the lease of message %s (task %s) was lost before it was settled: %s',
                step.delivery.queue.name,
                step.delivery.message_id,
                step.delivery.task_id,
                reason,
            )
        else:
            log.error(
                'queue "%s": SQS refuses %s for message %s (task %s), which shows again when its lease is over: %s',
                step.delivery.queue.name,
                step.operation,
                step.delivery.message_id,
                step.delivery.task_id,
                reason,
            )
        self._unlease(step.delivery)
        self._holdings.drop(step.delivery)

    def _spell(self, operation: str, url: str) -> Spell:
        key = (operation, url)
        if key not in self._spells:
            self._spells[key] = Spell(f'{operation} on queue "{url.rpartition("/")[2]}"')
        return self._spells[key]

    # The end ---------------------------------------------------------------------------------------------------------

    def flush(self, seconds: float) -> int:
        """Send all that waits now, without lingering; how many were not confirmed within so many seconds."""
        deadline = time.monotonic() + seconds
        with self._condition:
            self._hurry = True
            self._paused.clear()
            self._condition.notify_all()
            while self._unfinished() and time.monotonic() < deadline:
                if not self._threads:
                    self._start_thread()
                self._condition.wait(min(0.05, max(0.0, deadline - time.monotonic())))
            self._hurry = False
            return self._unfinished()

    def _unfinished(self) -> int:
        return self._sending + sum(len(bucket) for bucket in self._waiting.values())

    def close(self) -> None:
        """End the threads; call flush first."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
