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

from serverless.broker import dead_letters, gate, worker
from serverless.broker.desk import Desk
from serverless.broker.holdings import Delivery, Holdings, State
from serverless.broker.incoming import Message, Reader
from serverless.broker.leases import LeaseKeeper
from serverless.broker.options import LONGEST_DELAY_SECONDS, QueueOptions
from serverless.broker.receiving import Receiver, received
from serverless.broker.settling import Settler
from serverless.broker.sqs import CALL_ERRORS, Sqs

log = logging.getLogger("serverless.broker")

#: After a crash the message stays hidden for this, doubling with each receive.
_FIRST_CRASH_PAUSE_SECONDS = 2
_LONGEST_CRASH_PAUSE_SECONDS = 900
#: SQS hides a message for twelve hours at most, counted from its receive.
_LONGEST_HIDING_SECONDS = 11 * 3600
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
        self.receiver = Receiver(sqs, self.holdings, on_received=self._read, on_surplus=self._give_back)
        self.keeper.report = self.receiver.report
        self.keeper.on_stop = self.release_unstarted
        self.keeper.on_dropped = self.crashed
        self._ready: deque[tuple[Delivery, Message]] = deque()
        self._closed = False
        self._redrive_again_at = 0.0
        gate.join(self)
        self.keeper.start()
        self.desk.start()
        self._at_exit = partial(_close, weakref.WeakMethod(self.close))
        atexit.register(self._at_exit)

    # Towards Celery --------------------------------------------------------------------------------------------------

    def _read(self, deliveries: list[Delivery]) -> None:
        self._learn_maximum(deliveries)
        self.reader.read(deliveries)

    def _give(self, delivery: Delivery, message: Message) -> None:
        self._ready.append((delivery, message))
        self._on_ready()

    def take(self) -> tuple[Delivery, Message] | None:
        """The next message for Celery; None if there is none, or the worker stops."""
        while True:
            try:
                delivery, message = self._ready.popleft()
            except IndexError:
                return None
            # Noted first and asked second: what is not delivered is given back, in another thread, once it stops.
            delivery.delivered = True
            if worker.stopping():
                delivery.delivered = False
                return None
            if delivery.state is State.HELD:
                return delivery, message

    def get(self, queue: QueueOptions) -> Message | None:
        """One message by asking SQS once, without waiting. Raises CALL_ERRORS."""
        for raw in self._sqs.receive(queue, 1, 0):
            delivery = received(queue, raw, self._sqs.options.lease_seconds)
            self.holdings.add([delivery])
            self._learn_maximum([delivery])
            message = self.reader.parse(delivery)
            if message is not None:
                delivery.delivered = True
                return message
        return None

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    # From Celery: what it says is done by the desk's thread ----------------------------------------------------------

    def done(self, receipt: str) -> None:
        """Celery acknowledges: its room is free at once, SQS is told in a batch."""
        self.desk.tell(self._with, receipt, self._delete)

    def crashed(self, receipt: str) -> None:
        """Its process was lost, or the task wants it back: it shows again after a pause that doubles.

        At the redrive policy's maximum it goes to the dead-letter queue with its story; SQS would move it without one.
        """
        self.desk.tell(self._with, receipt, self._return)

    def refused(self, receipt: str, reason: str) -> None:
        """Celery will never run it: to the dead-letter queue with it."""
        self.desk.tell(self._with, receipt, partial(self.refuse, reason=reason))

    def returned(self, receipt: str, seconds: int = 0) -> None:
        """Celery has no use for it now, and nothing is wrong with it."""
        self.desk.tell(self._with, receipt, partial(self.hand_back, seconds=seconds))

    def keep(self, receipt: str) -> None:
        """Celery has forgotten it, and what became of it is being recorded: it stays leased until it is settled."""
        self.desk.tell(self._with, receipt, self._keep)

    def given_up(self, receipt: str) -> None:
        """It is no longer ours: somebody else has it, or will."""
        self.desk.tell(self._with, receipt, self._drop)

    def set_slots(self, slots: int) -> None:
        if self.receiver.is_polling:
            self.desk.tell(self.receiver.set_slots, slots)
        else:
            self.receiver.set_slots(slots)

    def _with(self, receipt: str, action: Callable[[Delivery], None]) -> None:
        delivery = self.holdings.get(receipt)
        if delivery is not None:
            action(delivery)

    # What becomes of a delivery --------------------------------------------------------------------------------------

    def _settle(self, delivery: Delivery, tell_sqs: Callable[[], None], *, done: bool) -> bool:
        """Settle it; False if it was. tell_sqs comes first, so that nothing that fails later can leave it untold."""
        if not self.holdings.settle(delivery):
            return False
        tell_sqs()
        self.reader.settled(delivery, done=done)
        self.receiver.freed()
        return True

    def _delete(self, delivery: Delivery) -> None:
        self._settle(delivery, lambda: self.settler.delete(delivery), done=True)

    def _keep(self, delivery: Delivery) -> None:
        delivery.kept = True

    def _drop(self, delivery: Delivery) -> None:
        self._settle(delivery, lambda: self.holdings.drop(delivery), done=False)

    def refuse(self, delivery: Delivery, reason: str) -> None:
        """It can never be worked on: to the dead-letter queue with it."""
        if self._settle(delivery, lambda: self.dead.move(delivery, reason), done=True):
            self._tell_of_dead_letter(delivery.task_id, reason)

    def _tell_of_dead_letter(self, task_id: str | None, reason: str) -> None:
        hook = self._sqs.options.dead_letter_hook
        if hook is None:
            return
        try:
            hook(task_id, reason)
        except Exception:
            log.exception("the dead-letter hook failed; the message is moved all the same")

    def _return(self, delivery: Delivery) -> None:
        if delivery.max_receives is not None and delivery.receives >= delivery.max_receives:
            self.refuse(
                delivery,
                f"it came {delivery.receives} times, and its process died, or it wanted to come back, each time",
            )
            return
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
        self._settle(delivery, lambda: self.settler.hand_back(delivery, pause), done=False)

    def hand_back(self, delivery: Delivery, seconds: int = 0) -> None:
        """Give a healthy message back. That must not bring it nearer to the dead-letter queue.

        SQS counts receives, whatever came of them, so before the count reaches the redrive policy's maximum the message
        is replaced by a fresh copy, whose count begins anew. (On a FIFO queue a copy would lose its place in the order:
        there the policy's maximum must be high.)
        """
        delivery.went_back = True
        hidden = min(seconds, _LONGEST_HIDING_SECONDS)
        self._settle(delivery, lambda: self._show(delivery, hidden), done=False)

    def _show(self, delivery: Delivery, seconds: int) -> None:
        most = delivery.max_receives
        if most is None or delivery.receives < most - 1 or delivery.queue.fifo:
            self.settler.hand_back(delivery, seconds)
            return
        entry: dict[str, Any] = {"MessageBody": delivery.body}
        if delivery.attributes:
            entry["MessageAttributes"] = delivery.attributes
        if delivery.group:
            entry["MessageGroupId"] = delivery.group
        if seconds:
            entry["DelaySeconds"] = min(seconds, LONGEST_DELAY_SECONDS)
        self.settler.replace(delivery, delivery.queue.url, entry)

    def _give_back(self, deliveries: list[Delivery]) -> None:
        self._learn_maximum(deliveries)
        for delivery in deliveries:
            self.hand_back(delivery)

    def _learn_maximum(self, deliveries: list[Delivery]) -> None:
        """Ask for the redrive policy's maximum where it is not declared and a message came more than once."""
        for delivery in deliveries:
            if delivery.max_receives is None and delivery.receives >= _FEWEST_MAX_RECEIVES:
                if time.monotonic() < self._redrive_again_at:
                    return
                try:
                    delivery.max_receives = self._sqs.redrive(delivery.queue).max_receives
                except CALL_ERRORS:
                    self._redrive_again_at = time.monotonic() + _REDRIVE_PAUSE_SECONDS
                    return

    # The end ---------------------------------------------------------------------------------------------------------

    def release_unstarted(self) -> None:
        """Hand back what Celery is not to run any more, at once; what runs stays leased.

        A delivered message of which Celery made no request says nothing of its own.
        """
        for delivery in self.holdings.all_held():
            if delivery.delivered and (delivery.request is None or delivery.begun):
                continue
            # Settled first and asked second, see Delivery.
            if not self.holdings.settle(delivery):
                continue
            if delivery.begun:
                self.holdings.unsettle(delivery)
                continue
            delivery.went_back = True
            self._show(delivery, 0)
            self.reader.settled(delivery, done=False)

    def close(self) -> None:
        """Hand back everything that is not done, wait for late polls, tell SQS all, end the threads.

        Where Celery only makes its connection anew, what its pool has begun goes on, and stays leased until it is done.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        self.receiver.stop()
        self.desk.finish(_FLUSH_SECONDS)
        held = self.holdings.all_held()
        if not worker.stopping() and any(delivery.begun for delivery in held):
            self._give_back([delivery for delivery in held if not delivery.begun])
            self.keeper.on_idle = self._end_threads
            return
        if held:
            log.info("handing back %d messages that were not finished", len(held))
        self._give_back(held)
        late = self.receiver.polls_under_way
        if late:
            log.info("waiting for long polls to end (%d), so that what they bring is not hidden from others", late)
        left = self.receiver.await_late_polls(self._sqs.options.wait_time_seconds + 2.0)
        if left:
            log.warning("%d long polls did not end; what they may still bring shows again when its lease is over", left)
        self.desk.finish(_FLUSH_SECONDS)
        self._give_back(self.holdings.all_held())
        self.dead.finish(_FLUSH_SECONDS)
        unconfirmed = self.settler.flush(_FLUSH_SECONDS)
        if unconfirmed:
            log.error("SQS could not be told of %d messages; they show again when their leases are over", unconfirmed)
        self._end_threads()

    def _end_threads(self) -> None:
        gate.leave(self)
        self.settler.close()
        self.keeper.close()
        self.desk.close()


def _close(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    """At the process's end, for a program that did not close its connection."""
    found = method()
    if found is not None:
        found()
