"""One channel's consuming side: receiver, reader, lease keeper and settler, put together."""

from __future__ import annotations

import atexit
import logging
import os
import random
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from serverless.broker import dead_letters, worker
from serverless.broker.desk import Desk
from serverless.broker.holdings import Delivery, Holdings, State
from serverless.broker.incoming import Message, Reader
from serverless.broker.leases import LeaseKeeper
from serverless.broker.options import LONGEST_IN_FLIGHT_SECONDS, QueueOptions
from serverless.broker.receiving import Receiver, received
from serverless.broker.settling import Settler
from serverless.broker.sqs import CALL_ERRORS, Sqs

log = logging.getLogger("serverless.broker")

#: After a crash the message stays hidden for this, doubling with each receive.
_FIRST_CRASH_PAUSE_SECONDS = 2
_LONGEST_CRASH_PAUSE_SECONDS = 900
#: Below this count no redrive policy of any use has its maximum.
_FEWEST_MAX_RECEIVES = 2
_REDRIVE_PAUSE_SECONDS = 10.0
#: Of the process's end, for what SQS must still be told.
_FLUSH_SECONDS = 10.0


class Consuming:
    """What a channel holds and does for its consumers.

    on_ready: called, in any thread, when there are messages to take.
    """

    def __init__(self, sqs: Sqs, channel: Any, on_ready: Callable[[], None]) -> None:
        self._sqs = sqs
        self._pid = os.getpid()
        self._on_ready = on_ready
        self.holdings = Holdings()
        self.keeper = LeaseKeeper(sqs, self.holdings)
        self.desk = Desk()
        self.settler = Settler(sqs, self.holdings, unlease=self.keeper.release)
        self.dead = dead_letters.DeadLetters(sqs, self.settler)
        self.reader = Reader(sqs, self.holdings, channel, give=self._give, refuse=self.refuse, hand_back=self.hand_back)
        self.receiver = Receiver(sqs, self.holdings, on_received=self.reader.read, on_surplus=self._give_up)
        self.keeper.report = self.receiver.report
        self.keeper.on_stop = self.release_unstarted
        self._ready: deque[tuple[Delivery, Message]] = deque()
        self._closed = False
        self._redrive_again_at = 0.0
        self.keeper.start()
        self.desk.start()
        self._at_exit = partial(_close, weakref.WeakMethod(self.close))
        atexit.register(self._at_exit)

    # Towards Celery --------------------------------------------------------------------------------------------------

    def _give(self, delivery: Delivery, message: Message) -> None:
        self._ready.append((delivery, message))
        self._on_ready()

    def take(self) -> tuple[Delivery, Message] | None:
        """The next message for Celery; None if there is none, or the worker stops."""
        while self._ready:
            delivery, message = self._ready.popleft()
            # Noted first and asked second: what is not delivered is given back, in another thread, once it stops.
            delivery.delivered = True
            if worker.stopping():
                delivery.delivered = False
                return None
            if delivery.state is State.HELD:
                return delivery, message
        return None

    def get(self, queue: QueueOptions) -> Message | None:
        """One message by asking SQS once, without waiting. Raises CALL_ERRORS."""
        for raw in self._sqs.receive(queue, 1, 0):
            delivery = received(queue, raw)
            self.holdings.add([delivery])
            message = self.reader.parse(delivery)
            if message is not None:
                delivery.delivered = True
                return message
        return None

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    # From Celery -----------------------------------------------------------------------------------------------------

    def done(self, receipt: str) -> None:
        """Celery acknowledges: its room is free at once, SQS is told in a batch."""
        self.desk.tell(self._done, receipt)

    def crashed(self, receipt: str) -> None:
        """Its process was lost, or the task wants it back: it shows again after a pause that doubles.

        At the redrive policy's maximum it goes to the dead-letter queue with its story; SQS would move it without one.
        """
        self.desk.tell(self._crashed, receipt)

    def refused(self, receipt: str, reason: str) -> None:
        """Celery will never run it: to the dead-letter queue with it."""
        self.desk.tell(self._refused, receipt, reason)

    def _done(self, receipt: str) -> None:
        delivery = self._settle(receipt)
        if delivery is not None:
            self.settler.delete(delivery)
            self.reader.settled(delivery, done=True)

    def _crashed(self, receipt: str) -> None:
        delivery = self._settle(receipt)
        if delivery is None:
            return
        most = self._most_receives(delivery)
        if most is not None and delivery.receives >= most:
            self.dead.move(
                delivery,
                f"it came {delivery.receives} times, and its process died, or it wanted to come back, each time",
            )
            self.reader.settled(delivery, done=True)
        else:
            longest = min(_LONGEST_CRASH_PAUSE_SECONDS, _FIRST_CRASH_PAUSE_SECONDS << min(delivery.receives - 1, 16))
            pause = random.randint((longest + 1) // 2, longest)
            log.warning(
                'queue "%s": message %s (task %s, received %d times) goes back and shows again in %d s',
                delivery.queue.name,
                delivery.message_id,
                delivery.task_id,
                delivery.receives,
                pause,
            )
            self.settler.hand_back(delivery, min(pause, LONGEST_IN_FLIGHT_SECONDS))
            self.reader.settled(delivery, done=False)

    def refuse(self, delivery: Delivery, reason: str) -> None:
        """It can never be worked on: to the dead-letter queue with it."""
        if self._mark_settled(delivery):
            self.dead.move(delivery, reason)
            self.reader.settled(delivery, done=True)

    def hand_back(self, delivery: Delivery, seconds: int = 0) -> None:
        """Give a healthy message back. That must not bring it nearer to the dead-letter queue.

        SQS counts receives, whatever came of them, so before the count reaches the redrive policy's maximum the message
        is replaced by a fresh copy, whose count begins anew. (On a FIFO queue a copy would lose its place in the order:
        there the policy's maximum must be high.)
        """
        if not self._mark_settled(delivery):
            return
        most = self._most_receives(delivery)
        if most is None or delivery.receives < most - 1 or delivery.queue.fifo:
            self.settler.hand_back(delivery, seconds)
        else:
            entry: dict[str, Any] = {"MessageBody": delivery.body}
            if delivery.attributes:
                entry["MessageAttributes"] = delivery.attributes
            if delivery.group:
                entry["MessageGroupId"] = delivery.group
            if seconds:
                entry["DelaySeconds"] = min(seconds, 900)
            self.settler.replace(delivery, delivery.queue.url, entry)
        self.reader.settled(delivery, done=False)

    def _most_receives(self, delivery: Delivery) -> int | None:
        """The redrive policy's maximum; asked for only where it is not declared and a message came more than once."""
        if delivery.queue.max_receives is not None:
            return delivery.queue.max_receives
        if delivery.receives < _FEWEST_MAX_RECEIVES or time.monotonic() < self._redrive_again_at:
            return None
        try:
            return self._sqs.redrive(delivery.queue).max_receives
        except CALL_ERRORS:
            self._redrive_again_at = time.monotonic() + _REDRIVE_PAUSE_SECONDS
            return None

    def _refused(self, receipt: str, reason: str) -> None:
        delivery = self.holdings.get(receipt)
        if delivery is not None:
            self.refuse(delivery, reason)

    def _give_up(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.hand_back(delivery)

    def _settle(self, receipt: str) -> Delivery | None:
        delivery = self.holdings.get(receipt)
        return delivery if delivery is not None and self._mark_settled(delivery) else None

    def _mark_settled(self, delivery: Delivery) -> bool:
        if not self.holdings.settle(delivery):
            return False
        self.receiver.freed()
        return True

    # The end ---------------------------------------------------------------------------------------------------------

    def release_unstarted(self) -> None:
        """No consumer is left: hand back what Celery will not run any more, at once; what runs stays leased.

        A delivered message of which Celery made no request says nothing of its own.
        """
        for delivery in self.holdings.all_held():
            if not delivery.delivered or (delivery.request is not None and not delivery.begun):
                self.hand_back(delivery)
        self._ready.clear()

    def close(self) -> None:
        """Hand back everything that is not done, wait for late polls, tell SQS all, end the threads."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        self.receiver.stop()
        self.desk.finish(_FLUSH_SECONDS)
        held = self.holdings.all_held()
        if held:
            log.info("handing back %d messages that were not finished", len(held))
        self._give_up(held)
        late = self.receiver.polls_under_way
        if late:
            log.info("waiting for %d long polls to end, so that what they bring is not hidden from others", late)
        left = self.receiver.await_late_polls(self._sqs.options.wait_time_seconds + 2.0)
        if left:
            log.warning("%d long polls did not end; what they may still bring shows again when its lease is over", left)
        self.desk.finish(_FLUSH_SECONDS)
        self._give_up(self.holdings.all_held())
        unconfirmed = self.settler.flush(_FLUSH_SECONDS)
        if unconfirmed:
            log.error("SQS could not be told of %d messages; they show again when their leases are over", unconfirmed)
        self.settler.close()
        self.keeper.close()
        self.desk.close()


def _close(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    """At the process's end, for a program that did not close its connection."""
    found = method()
    if found is not None:
        found()
