"""Receiving: one thread a queue, one long poll at a time, as many messages as there is room for.

**Helpers.** While a queue's answers are full and there is room for more batches, up to three more threads poll it as
well, without waiting: on a slow network one poll at a time would bring ten messages a round trip and no more.

**Room.** Celery's prefetch count is the number of slots. A held message takes 1/prefetch of a slot, by its queue: a
long task takes a whole one, so nothing waits behind it that another worker could have taken; ten short ones share one.
What a poll that is under way may bring is reserved; but what idle polls have reserved is open to a queue that is known
to have messages, and where a slot is free, any queue may listen for one message. Should both bring something, the
surplus is handed back at once.

**Whole batches.** While every slot has work, a poll waits until there is room for a batch, so that receiving costs a
tenth of a request a message. While a slot idles, it does not wait.

**Levels.** A queue is not polled while a more urgent one may have messages: while that one's last answer was full, or
its poll has not yet had time to come back with something. An idle long poll says that a queue is empty, at no request
of its own. One poll in `starvation_guard` messages goes down all the same.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from serverless import aws
from serverless.broker import gate, worker
from serverless.broker.holdings import Delivery, Holdings
from serverless.broker.options import MOST_ENTRIES, QueueOptions
from serverless.broker.spells import Spell
from serverless.broker.sqs import CALL_ERRORS, Sqs, describe

log = logging.getLogger("serverless.broker")

#: How long a poll may be under way before it says that its queue is empty for now.
PATIENCE_SECONDS = 0.25
#: How often a waiting thread looks for a stop that came by a flag.
_LOOK_SECONDS = 1.0
_MOST_HELPERS = 3
_HEAD_START_SECONDS = 0.001
_EPSILON = 1e-6


class Poller(threading.Thread):
    """One queue's thread, or one that helps it. helps: the poller that it helps, if any."""

    def __init__(self, receiver: Receiver, queue: QueueOptions, helps: Poller | None = None) -> None:
        super().__init__(name=f"sqs-receive-{queue.name}", daemon=True)
        self.receiver = receiver
        self.queue = queue
        self.helps = helps
        self.helpers = 0
        self.cancelled = False
        #: Of the poll under way: messages asked for (0: none is under way), since when, and whether its queue is known
        #: to have messages.
        self.asked = 0
        self.since = 0.0
        self.deep = False
        self.failing = False
        #: Messages that more urgent queues brought since this one was last polled.
        self.passed_over = 0
        #: Whether it waits for room or for its turn.
        self.waiting = False
        #: While it waits for room: how many slots may be used at most for its poll to begin.
        self.begins_at = -1.0
        self.spell = Spell(f'receiving from queue "{queue.name}"')

    def run(self) -> None:
        while True:
            permission = self.receiver.await_room(self)
            if permission is None:
                return
            most, wait_seconds = permission
            try:
                messages = self.receiver.sqs.receive(self.queue, most, wait_seconds)
            except CALL_ERRORS as error:
                aws.renew_credentials(error)
                self.receiver.failed(self, describe(error))
                continue
            except Exception as error:
                # A bug here or in a library must not leave a deaf worker.
                log.exception('receiving from queue "%s" failed', self.queue.name)
                self.receiver.failed(self, describe(error))
                continue
            self.spell.worked()
            try:
                self.receiver.answered(self, most, messages)
            except Exception as error:
                log.exception('messages from queue "%s" could not be taken', self.queue.name)
                self.receiver.failed(self, describe(error))
            if messages and not self.deep:
                # Building the next request keeps the interpreter busy: let the event loop start the task before.
                time.sleep(_HEAD_START_SECONDS)


class Receiver:
    """All pollers of one channel.

    on_received: called in the poller's thread with deliveries that Celery may have.
    on_surplus: called with deliveries that there turned out to be no room for, or that came after the stop.
    """

    def __init__(
        self,
        sqs: Sqs,
        holdings: Holdings,
        on_received: Callable[[list[Delivery]], None],
        on_surplus: Callable[[list[Delivery]], None],
    ) -> None:
        self.sqs = sqs
        self._holdings = holdings
        self._changed = holdings.changed
        self._on_received = on_received
        self._on_surplus = on_surplus
        self._pollers: list[Poller] = []
        self.slots = 0
        self._stopped = False
        self._waiting = 0
        self._begins_at = -1.0
        self.last_receive_at: float | None = None
        self.last_try_at: float | None = None

    # What the channel says -------------------------------------------------------------------------------------------

    def add(self, queues: Iterable[QueueOptions]) -> None:
        """Poll these queues from now on, those that are not polled already. None begins before all are known."""
        with self._changed:
            polled = {poller.queue.name for poller in self._pollers if not poller.cancelled}
            for queue in queues:
                if queue.name not in polled:
                    poller = Poller(self, queue)
                    poller.start()
                    self._pollers.append(poller)
            self._changed.notify_all()

    def remove(self, queue_name: str) -> None:
        """Begin no further poll of it; what a poll under way brings is handed back."""
        with self._changed:
            for poller in self._pollers:
                if poller.queue.name == queue_name:
                    poller.cancelled = True
            self._pollers = [poller for poller in self._pollers if not poller.cancelled or poller.asked]
            self._changed.notify_all()

    @property
    def is_polling(self) -> bool:
        return bool(self._pollers)

    def set_slots(self, slots: int) -> None:
        """Celery's prefetch count; 0 is without limit."""
        with self._changed:
            self.slots = slots
            self._changed.notify_all()

    def freed(self) -> None:
        """Something was settled. Wakes the pollers if one has waited for that. Called for each message: it is quick."""
        if not self._waiting:
            return
        used = self._holdings.slots_used()
        if used <= self._begins_at or self._holdings.held < self._tasks_at_once:
            with self._changed:
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def look_again(self) -> None:
        """Something outside has changed that polls wait for."""
        with self._changed:
            self._changed.notify_all()

    def await_late_polls(self, seconds: float) -> int:
        """Wait for polls that are under way; how many are left."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self.polls_under_way and time.monotonic() < deadline and not worker.hurried():
                self._changed.wait(min(0.1, max(0.0, deadline - time.monotonic())))
            return self.polls_under_way

    @property
    def polls_under_way(self) -> int:
        return sum(poller.asked > 0 and poller.is_alive() for poller in self._pollers)

    def report(self) -> dict[str, Any]:
        """Facts for the liveness file; times are seconds since the epoch.

        oldest_poll_seconds: how long the oldest poll under way has been so; None if none is.
        """
        with self._changed:
            consuming = [poller for poller in self._pollers if not poller.cancelled]
            under_way = [poller.since for poller in self._pollers if poller.asked]
            return {
                "last_receive_at": self.last_receive_at,
                "last_try_at": self.last_try_at,
                "oldest_poll_seconds": time.monotonic() - min(under_way) if under_way else None,
                "stopping": self._stopped or worker.stopping(),
                "dead_pollers": [poller.queue.name for poller in consuming if not poller.is_alive()],
                "held": self._holdings.held,
            }

    # What the pollers ask --------------------------------------------------------------------------------------------

    def await_room(self, poller: Poller) -> tuple[int, int] | None:
        """(messages to ask for, seconds to wait for them), once there is room; None to end."""
        with self._changed:
            self._waiting += 1
            poller.waiting = True
            try:
                while not self._is_over(poller):
                    now = time.monotonic()
                    permission = self._permission(poller, now)
                    self._begins_at = max((each.begins_at for each in self._pollers), default=-1.0)
                    if permission is not None:
                        poller.asked, poller.since, poller.passed_over = permission[0], now, 0
                        self._changed.notify_all()
                        return permission
                    self._changed.wait(PATIENCE_SECONDS if self._is_behind_a_fresh_poll(poller, now) else _LOOK_SECONDS)
                self._forget(poller)
                return None
            finally:
                self._waiting -= 1
                poller.waiting = False
                poller.begins_at = -1.0

    def answered(self, poller: Poller, asked: int, messages: list[dict[str, Any]]) -> None:
        deliveries = [received(poller.queue, message, self.sqs.options.lease_seconds) for message in messages]
        with self._changed:
            self.last_receive_at = self.last_try_at = time.time()
            poller.asked = 0
            poller.failing = False
            poller.deep = poller.helps is not None or len(deliveries) >= asked
            if poller.helps is not None and len(deliveries) < asked:
                poller.helps.deep = False
            if deliveries:
                for other in self._pollers:
                    if other.queue.level > poller.queue.level:
                        other.passed_over += len(deliveries)
            over = self._is_over(poller)
            room = 0 if over or gate.is_closed() else self._room(poller, counting_listeners=False)
            kept, surplus = deliveries[:room], deliveries[room:]
            self._holdings.add(deliveries)
            if over:
                self._forget(poller)
            self._changed.notify_all()
        try:
            if kept:
                self._on_received(kept)
        finally:
            if surplus:
                self._on_surplus(surplus)
        if not over and poller.deep and poller.helps is None:
            self._get_help(poller)

    def failed(self, poller: Poller, reason: str) -> None:
        """Wait until the next try is due."""
        pause = poller.spell.failed(reason)
        deadline = time.monotonic() + pause
        with self._changed:
            self.last_try_at = time.time()
            poller.asked = 0
            poller.failing = True
            (poller.helps or poller).deep = False
            self._changed.notify_all()
            while not self._is_over(poller) and time.monotonic() < deadline:
                self._changed.wait(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))

    def _is_over(self, poller: Poller) -> bool:
        return self._stopped or poller.cancelled or worker.stopping()

    def _forget(self, poller: Poller) -> None:
        if poller.cancelled and poller in self._pollers:
            self._pollers.remove(poller)

    # Room ------------------------------------------------------------------------------------------------------------

    @property
    def _tasks_at_once(self) -> int:
        return worker.slots() or self.slots or 1

    def _get_help(self, poller: Poller) -> None:
        """Start one more thread for its queue, if there is room for two batches: its own next one, and the helper's."""
        with self._changed:
            if poller.helpers >= _MOST_HELPERS or self._room(poller, counting_listeners=True) < 2 * MOST_ENTRIES:
                return
            helper = Poller(self, poller.queue, helps=poller)
            helper.deep = True
            try:
                helper.start()
            except RuntimeError as error:  # no further thread is to be had
                log.warning('queue "%s" is polled by no further thread: %s', poller.queue.name, error)
                poller.helpers = _MOST_HELPERS
                return
            poller.helpers += 1
            self._pollers.append(helper)

    def _permission(self, poller: Poller, now: float) -> tuple[int, int] | None:
        poller.begins_at = -1.0
        if gate.is_closed() or self._holdings.settling >= self.sqs.options.most_unacked:
            return None
        if self._keeps_an_overdue_one_waiting(poller):
            return None
        out_of_turn = self._has_to_wait_for_others(poller, now)
        if out_of_turn and poller.passed_over < self.sqs.options.starvation_guard:
            return None
        # What is known to have messages does not wait for what may have some: idle polls follow one another for ever.
        room = self._room(poller, counting_listeners=not poller.deep)
        if poller.helps is not None:
            wanted = MOST_ENTRIES
            if not (poller.helps.deep and poller.helps.asked):
                return None
        elif self._holdings.held < self._tasks_at_once:
            wanted = 1
        else:
            full = math.floor(self.slots * poller.queue.prefetch + _EPSILON) or MOST_ENTRIES
            wanted = min(MOST_ENTRIES, max(1, full * 3 // 4))
        if room < wanted:
            poller.begins_at = self._holdings.slots_used() - (wanted - room) / poller.queue.prefetch + _EPSILON
            if wanted > 1 or poller.deep or self._room(poller, counting_listeners=False) < 1:
                return None
            room = 1
        others = [other for other in self._pollers if other is not poller and not other.helps and not other.cancelled]
        if not poller.deep:
            # Idle queues share what there is, since each may be the one that brings something.
            room = max(1, room // (1 + sum(not other.asked and not other.failing for other in others)))
        wait = 0 if poller.deep and (others or poller.helps) else self.sqs.options.wait_time_seconds
        return 1 if out_of_turn else min(room, MOST_ENTRIES), wait

    def _room(self, poller: Poller, *, counting_listeners: bool) -> int:
        """Messages of the poller's queue that may still be held.

        counting_listeners: whether what idle polls have reserved counts as taken.
        """
        if not self.slots:
            return MOST_ENTRIES
        reserved = sum(
            other.asked / other.queue.prefetch
            for other in self._pollers
            if other is not poller and (other.deep or counting_listeners)
        )
        free = self.slots - self._holdings.slots_used() - reserved
        return max(0, math.floor(free * poller.queue.prefetch + _EPSILON))

    def _has_to_wait_for_others(self, poller: Poller, now: float) -> bool:
        return any(
            not other.failing and (not other.asked or other.deep or now - other.since < PATIENCE_SECONDS)
            for other in self._pollers
            if other.queue.level < poller.queue.level and not other.helps and not other.cancelled
        )

    def _keeps_an_overdue_one_waiting(self, poller: Poller) -> bool:
        """Whether a less urgent queue has been passed over often enough: it gets the next room that there is."""
        return any(
            other.waiting and not other.failing and other.passed_over >= self.sqs.options.starvation_guard
            for other in self._pollers
            if other.queue.level > poller.queue.level and not other.helps and not other.cancelled
        )

    def _is_behind_a_fresh_poll(self, poller: Poller, now: float) -> bool:
        return any(
            other.asked and not other.deep and now - other.since < PATIENCE_SECONDS
            for other in self._pollers
            if other.queue.level < poller.queue.level
        )


def received(queue: QueueOptions, message: dict[str, Any], lease_seconds: float) -> Delivery:
    """What SQS just handed out. message: an entry of ReceiveMessage's answer."""
    attributes = message.get("Attributes", {})
    return Delivery(
        receipt=message["ReceiptHandle"],
        queue=queue,
        message_id=message.get("MessageId", ""),
        body=message.get("Body", ""),
        receives=int(attributes.get("ApproximateReceiveCount", 1)),
        attributes=message.get("MessageAttributes", {}),
        group=attributes.get("MessageGroupId"),
        renewed_at=time.monotonic(),
        lease_seconds=lease_seconds,
        max_receives=queue.max_receives,
    )
