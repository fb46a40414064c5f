"""From what SQS hands out to what Celery may have: read, checked, held back where it is too early or out of turn.

Runs in the pollers' threads, so that Celery's event loop is left with messages that are known to be good.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kombu.transport import virtual

from serverless.broker import claim_checks, envelope
from serverless.broker.errors import EnvelopeError
from serverless.broker.holdings import Delivery, Holdings, State
from serverless.broker.options import LONGEST_IN_FLIGHT_SECONDS
from serverless.broker.spells import pause_seconds
from serverless.broker.sqs import CALL_ERRORS, Sqs, describe

log = logging.getLogger("serverless.broker")

_JSON = ("application/json", "json")
#: SQS may add a little to the 12 hours; a message hidden for longer is refused.
_LONGEST_HIDING_SECONDS = LONGEST_IN_FLIGHT_SECONDS - 60
_LONGEST_FETCH_PAUSE_SECONDS = 300.0


class Message(virtual.Message):
    """kombu's message, whose body was decoded and checked before Celery sees it.

    Celery acknowledges what it cannot decode, which would lose it: here that goes to the dead-letter queue.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **more: Any) -> None:
        super().__init__(payload, channel=channel, **more)
        self.receiving_channel = channel
        self.delivery: Delivery | None = None
        self._read: Any = None
        self._undecodable: Exception | None = None

    def decode(self) -> Any:
        if self._read is not None and (self.accept is None or "application/json" in self.accept):
            return self._read
        try:
            return super().decode()
        except Exception as error:
            self._undecodable = error
            raise

    @property
    def payload(self) -> Any:
        return self.decode()

    def ack(self, multiple: bool = False) -> None:
        if self._undecodable is None:
            super().ack(multiple)
        elif not self.acknowledged:
            self.receiving_channel.refuse(self.delivery_tag, f"its body cannot be decoded: {self._undecodable}")
            self._state = "REJECTED"


class Reader:
    """Reads deliveries.

    give: takes (delivery, message) that Celery may have now.
    refuse: takes (delivery, reason) of what can never become a message.
    hand_back: takes (delivery, seconds until it shows again).
    """

    def __init__(
        self,
        sqs: Sqs,
        holdings: Holdings,
        channel: Any,
        *,
        give: Callable[[Delivery, Message], None],
        refuse: Callable[[Delivery, str], None],
        hand_back: Callable[[Delivery, int], None],
    ) -> None:
        self._options = sqs.options
        self._holdings = holdings
        self._channel = channel
        self._give = give
        self._refuse = refuse
        self._hand_back = hand_back
        checks = sqs.options.claim_check
        self._claim_checks = claim_checks.ClaimChecks(sqs.options, checks) if checks else None
        #: Messages of FIFO queues whose group has one at work, in order.
        self._queued: dict[tuple[str, str], deque[tuple[Delivery, Message]]] = defaultdict(deque)
        self._at_work: dict[tuple[str, str], Delivery] = {}

    def read(self, deliveries: list[Delivery]) -> None:
        """Pass on what Celery may have now, and see to the rest."""
        #: Groups of FIFO queues of which a message of this answer went back: those behind it must not overtake it.
        gone_back: set[tuple[str, str]] = set()
        for delivery in deliveries:
            key = (delivery.queue.name, delivery.group or "")
            if delivery.queue.fifo and key in gone_back:
                self._hand_back(delivery, 0)
                continue
            message = self.parse(delivery)
            if message is not None:
                self._pass_on_safely(delivery, message)
            if delivery.went_back:
                gone_back.add(key)

    def _pass_on_safely(self, delivery: Delivery, message: Message) -> None:
        """One message must not take its poller, and those behind it, along."""
        try:
            self._pass_on(delivery, message)
        except Exception as error:
            log.exception("message %s cannot be passed on", delivery.message_id)
            self._refuse(delivery, f"reading it failed: {type(error).__name__}: {error}")

    def parse(self, delivery: Delivery) -> Message | None:
        """The message, or None where there is none to be had; that has been seen to then."""
        try:
            return self._message(delivery)
        except EnvelopeError as error:
            self._refuse(delivery, str(error))
        except CALL_ERRORS as error:
            # S3 is out of reach: the message is as good as it was.
            pause = pause_seconds(delivery.receives, _LONGEST_FETCH_PAUSE_SECONDS)
            log.warning(
                'queue "%s": the body of message %s cannot be fetched and is tried again: %s',
                delivery.queue.name,
                delivery.message_id,
                describe(error),
            )
            self._hand_back(delivery, math.ceil(pause))
        except Exception as error:  # whatever a hostile body may bring about
            log.exception("message %s cannot be read", delivery.message_id)
            self._refuse(delivery, f"reading it failed: {type(error).__name__}: {error}")
        return None

    def _message(self, delivery: Delivery) -> Message:
        payload = envelope.decode(delivery.body)
        if claim_checks.KEY in payload:
            if self._claim_checks is None:
                raise EnvelopeError("its body lies in S3, and the transport option claim_check is not set here.")
            payload = self._claim_checks.fetch(payload)
        headers, properties = payload["headers"], payload["properties"]
        delivery.task_id = headers["id"] if "task" in headers else None
        properties["delivery_tag"] = delivery.receipt
        sent = properties.get("delivery_info")
        properties["delivery_info"] = {
            **(sent if isinstance(sent, dict) else {}),
            "exchange": (sent.get("exchange") if isinstance(sent, dict) else None) or "",
            "routing_key": delivery.queue.name,
            "redelivered": delivery.receives > 1,
            # Where kombu's own transport has them.
            "sqs_queue": delivery.queue.url,
            "sqs_message": {
                "MessageId": delivery.message_id,
                "Attributes": {"ApproximateReceiveCount": str(delivery.receives)},
            },
        }
        try:
            message = Message(payload, channel=self._channel)
        except Exception as error:
            raise EnvelopeError(f"its body cannot be unpacked: {type(error).__name__}: {error}") from None
        message.delivery = delivery
        if message.errors:
            raise EnvelopeError(f"its body cannot be unpacked: {message.errors[0][1]}")
        if message.content_type in _JSON and message.content_encoding in (None, "utf-8", "utf8", "us-ascii", "binary"):
            message._read = envelope.read_json(message.body or b"null")
            envelope.check_depth(message.body.decode() if isinstance(message.body, bytes) else message.body or "")
            if "task" in headers:
                envelope.check_payload(message._read)
            elif isinstance(message._read, dict) and "task" in message._read:
                envelope.check_task_headers(message._read)
                envelope.check_signatures(message._read)
                delivery.task_id = message._read["id"]
        return message

    def _pass_on(self, delivery: Delivery, message: Message) -> None:
        fields = message.headers if "task" in message.headers else message._read  # of protocol 2, or of 1
        seconds = envelope.seconds_until_eta(fields, datetime.now(UTC)) if delivery.task_id else 0.0
        if seconds > max(2.0, self._options.lease_seconds / 2):
            # Too early to hold: SQS keeps it until shortly before, at the price of one receive.
            self._hand_back(delivery, min(_LONGEST_HIDING_SECONDS, math.floor(seconds) - 1))
            return
        if seconds:
            delivery.eta = time.time() + seconds
            self._holdings.mark_early(delivery)
        if not delivery.queue.fifo:
            self._give(delivery, message)
            return
        key = (delivery.queue.name, delivery.group or "")
        with self._holdings.changed:
            busy = key in self._at_work
            if busy:
                self._queued[key].append((delivery, message))
            else:
                self._at_work[key] = delivery
        if not busy:
            self._give(delivery, message)

    def settled(self, delivery: Delivery, *, done: bool) -> None:
        """A message of a FIFO queue is settled: its group's next may go, or, if it comes back, none may overtake it."""
        if not delivery.queue.fifo:
            return
        key = (delivery.queue.name, delivery.group or "")
        following: tuple[Delivery, Message] | None = None
        overtaken: list[Delivery] = []
        with self._holdings.changed:
            if self._at_work.get(key) is not delivery:
                return
            del self._at_work[key]
            queued = self._queued.pop(key, deque())
            if done:
                while queued and following is None:
                    candidate = queued.popleft()
                    following = candidate if candidate[0].state is State.HELD else None
                if following is not None:
                    self._at_work[key] = following[0]
                if queued:
                    self._queued[key] = queued
            else:
                overtaken = [each for each, _ in queued]
        for each in overtaken:
            self._hand_back(each, 0)
        if following is not None:
            self._give(*following)
