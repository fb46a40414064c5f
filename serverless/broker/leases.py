"""Keeping messages hidden while their worker lives: visibility renewed in batches, by a thread of its own.

A thread, and not a timer of the event loop: the loop stands still while a soft shutdown sleeps, while the solo pool
runs a task, and in any slow callback.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serverless.broker import worker
from serverless.broker.holdings import Delivery, Holdings, State
from serverless.broker.options import MOST_ENTRIES
from serverless.broker.spells import Spell
from serverless.broker.sqs import Sqs

log = logging.getLogger("serverless.broker")

#: How often the thread looks, at most: for stops, for the loop's pulse and for what is due.
_LOOK_SECONDS = 1.0
_LIVENESS_SECONDS = 5.0
_MOST_RENEWERS = 16


class LeaseKeeper(threading.Thread):
    """Renews what is held, until it is settled, lost, over its hard limit, or the worker hangs.

    ping: asks the event loop to call back `turned`; None where there is no loop.
    """

    def __init__(self, sqs: Sqs, holdings: Holdings) -> None:
        super().__init__(name="sqs-leases", daemon=True)
        self._sqs = sqs
        self._holdings = holdings
        self.lease_seconds = sqs.options.lease_seconds
        self.ping: Callable[[Callable[[], None]], object] | None = None
        #: What is written to the liveness file, by whoever knows it.
        self.report: Callable[[], dict[str, Any]] = dict
        #: Called again and again while the worker stops; the loop may stand still all that time.
        self.on_stop: Callable[[], object] = lambda: None
        #: Called with the receipt of what Celery has dropped without a word.
        self.on_dropped: Callable[[str], object] = lambda receipt: None
        #: Called once nothing is held or being settled any more.
        self.on_idle: Callable[[], object] | None = None
        self._renewing: set[Delivery] = set()
        self._released: set[Delivery] = set()
        self._condition = threading.Condition()
        self._closed = False
        self._asked_at: float | None = None
        self._turned_at = float("-inf")
        self._hung = False
        self._spells: dict[str, Spell] = {}
        self._reported_at = float("-inf")

    # The loop's pulse ------------------------------------------------------------------------------------------------

    def turned(self) -> None:
        """The event loop turns."""
        self._asked_at = None
        self._turned_at = time.monotonic()

    def _look_for_the_pulse(self, now: float) -> bool:
        """Whether the worker may keep what it holds. A loop that has not turned for a whole lease is stuck."""
        if self.ping is None or worker.pool_blocks_the_loop():
            return True
        if self._asked_at is None:
            self._hung = False
            self._asked_at = now
            self.ping(self.turned)
            return True
        if worker.stopping():  # asked all the same, once: a signal alone does not wake the loop
            self._hung = False
            return True
        if now - self._asked_at < self.lease_seconds:
            return True
        if not self._hung:
            self._hung = True
            log.critical(
                "the worker's event loop has not turned for %.0f s: %d messages are no longer kept from other workers",
                now - self._asked_at,
                self._holdings.held,
            )
        return False

    # Renewal ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            with self._condition:
                if not self._closed:
                    self._condition.wait(min(_LOOK_SECONDS, self.lease_seconds / 12))
                if self._closed:
                    return
            try:
                self.look()
            except Exception:
                log.exception("renewing leases failed and goes on")

    def look(self) -> None:
        """One round: renew what is due."""
        now = time.monotonic()
        if worker.stopping():
            self.on_stop()
        if now - self._reported_at >= min(_LIVENESS_SECONDS, self.lease_seconds / 3):
            self._reported_at = now
            self._write_liveness()
        self._look_for_what_was_dropped(now)
        if self.on_idle is not None and not self._holdings.all():
            self.on_idle()
        due = self._due(now)
        if not self._look_for_the_pulse(now):
            due = [delivery for delivery in due if delivery.state is State.SETTLING]
        queues: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in due:
            if delivery.state is State.SETTLING or not self._is_over_its_limit(delivery):
                queues[delivery.queue.url].append(delivery)
        batches = [
            (url, deliveries[start : start + MOST_ENTRIES])
            for url, deliveries in queues.items()
            for start in range(0, len(deliveries), MOST_ENTRIES)
        ]
        if len(batches) == 1:
            self._renew(*batches[0])
        elif batches:
            # Side by side: a request that gets no answer must not cost the others their leases.
            with ThreadPoolExecutor(min(len(batches), _MOST_RENEWERS), thread_name_prefix="sqs-renew") as renewers:
                list(renewers.map(lambda batch: self._renew(*batch), batches))

    def _look_for_what_was_dropped(self, now: float) -> None:
        """What the pool has begun and Celery no longer knows was neither acknowledged nor rejected: for an error in
        between, such as a result backend that is down. Kept, its slot would be gone for ever.

        Celery acknowledges through its event loop, so the loop must have turned since it was first missed.
        """
        if worker.stopping() or worker.pool_blocks_the_loop():
            return
        for delivery in self._holdings.all_held():
            if not delivery.begun or delivery.kept or delivery.request is None or worker.knows(delivery.request):
                delivery.missing_since = None
            elif delivery.missing_since is None:
                delivery.missing_since = now
            elif self._turned_at > delivery.missing_since + _LOOK_SECONDS:
                log.error(
                    'queue "%s": Celery has dropped message %s (task %s) without acknowledging it: it goes back',
                    delivery.queue.name,
                    delivery.message_id,
                    delivery.task_id,
                )
                self.on_dropped(delivery.receipt)

    def _due(self, now: float) -> list[Delivery]:
        """What has used a third of its lease; and, if anything has, what soon will, to fill the batch."""
        soon, due = now - self.lease_seconds / 4, now - self.lease_seconds / 3
        found = [delivery for delivery in self._holdings.all() if delivery.renewed_at <= soon and not delivery.lost]
        return found if any(delivery.renewed_at <= due for delivery in found) else []

    def _is_over_its_limit(self, delivery: Delivery) -> bool:
        if not worker.is_over_its_limit(delivery.request, margin_seconds=self.lease_seconds / 2):
            return False
        if not delivery.lost:
            delivery.lost = True
            log.error(
                'queue "%s": task %s runs past its hard time limit: its message is no longer kept from other workers',
                delivery.queue.name,
                delivery.task_id,
            )
        return True

    def _renew(self, url: str, deliveries: list[Delivery]) -> None:
        with self._condition:
            batch = [each for each in deliveries if each.state is not State.GONE and each not in self._released]
            self._renewing.update(batch)
        if not batch:
            return
        began = time.monotonic()
        try:
            entries = [{"ReceiptHandle": each.receipt, "VisibilityTimeout": self.lease_seconds} for each in batch]
            failures, befell = self._sqs.batch("change_message_visibility_batch", url, entries)
        finally:
            with self._condition:
                self._renewing.difference_update(batch)
                self._condition.notify_all()
        spell = self._spells.setdefault(url, Spell(f'renewing leases on queue "{url.rpartition("/")[2]}"'))
        if befell is not None:
            spell.failed(befell)
        else:
            spell.worked()
        renewed: list[str] = []
        for index, delivery in enumerate(batch):
            failure = failures.get(index)
            if failure is None:
                delivery.renewed_at = began
                if delivery.task_id and delivery.begun and delivery.state is State.HELD:
                    renewed.append(delivery.task_id)
            elif befell is None and not failure.passing:
                self._lose(delivery, failure.reason)
        if renewed and self._sqs.options.lease_hook is not None:
            try:
                self._sqs.options.lease_hook(renewed)
            except Exception:
                log.exception("the lease hook failed; messages are renewed all the same")

    def _lose(self, delivery: Delivery, reason: str) -> None:
        if delivery.state is State.HELD and not delivery.lost:
            log.error(
                'queue "%s": the lease of message %s (task %s) is lost, another worker may run it as well: %s',
                delivery.queue.name,
                delivery.message_id,
                delivery.task_id,
                reason,
            )
        delivery.lost = True

    def release(self, delivery: Delivery) -> None:
        """Never renew it again. Returns when no renewal of it is under way, or after the longest that one takes."""
        with self._condition:
            self._released.add(delivery)
            self._condition.wait_for(lambda: delivery not in self._renewing, timeout=20)
            if delivery.state is State.GONE:
                self._released.discard(delivery)

    def forget_released(self) -> None:
        """Drop what is gone from the memory of what was released."""
        with self._condition:
            self._released = {each for each in self._released if each.state is not State.GONE}

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        path = self._sqs.options.liveness_file
        if path is not None:
            # What has ended does not live.
            with contextlib.suppress(OSError):
                os.remove(path)

    # Liveness --------------------------------------------------------------------------------------------------------

    def _write_liveness(self) -> None:
        self.forget_released()
        path = self._sqs.options.liveness_file
        if path is None:
            return
        facts = {"pid": os.getpid(), "written_at": time.time(), "hung": self._hung, **self.report()}
        temporary = f"{path}.{os.getpid()}"
        try:
            with open(temporary, "w", encoding="utf-8") as handle:
                json.dump(facts, handle)
            os.replace(temporary, path)
        except OSError as error:
            self._spells.setdefault(path, Spell(f'writing the liveness file "{path}"')).failed(error)
