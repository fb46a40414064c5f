"""Messages that cannot be worked on: moved to the dead-letter queue with their story, never looped, never lost."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

from serverless.broker.desk import Desk
from serverless.broker.holdings import Delivery
from serverless.broker.settling import Settler, Step
from serverless.broker.spells import Spell, pause_seconds
from serverless.broker.sqs import CALL_ERRORS, Sqs, describe

log = logging.getLogger("serverless.broker")

#: The attributes that say why, when, from where, by which worker.
REASON, AT, QUEUE, WORKER, RECEIVES = (
    "DeadLetterReason",
    "DeadLetterAt",
    "DeadLetterQueue",
    "DeadLetterWorker",
    "DeadLetterReceives",
)
#: How often somebody sent the message back to work (redrive.py). It is what ends a loop, so nothing crowds it out.
REDRIVES = "RedriveCount"
_MOST_ATTRIBUTES = 10
#: How long poison stays hidden that can be put nowhere.
_UNKNOWN_PAUSE_SECONDS = 600
_LONGEST_REASON = 1000


class DeadLetters:
    """Moves deliveries out of the way."""

    def __init__(self, sqs: Sqs, settler: Settler) -> None:
        self._sqs = sqs
        self._settler = settler
        self._spell = Spell("finding the dead-letter queue")
        self._desk: Desk | None = None

    def move(self, delivery: Delivery, reason: str) -> None:
        """Move it to its queue's dead-letter queue; without one, log it whole and delete it.

        The delivery must be settled. Asks SQS for the redrive policy only where it is not declared; where that fails it
        asks again, meanwhile the message stays leased.
        """
        if delivery.queue.dead_letter_url:
            self._move(delivery, reason)
        else:
            if self._desk is None:
                self._desk = Desk("sqs-dead-letters")
                self._desk.start()
            self._desk.tell(self._move_patiently, delivery, reason)

    def finish(self, seconds: float) -> None:
        """Wait until all are on their way, at most so long."""
        if self._desk is not None:
            self._desk.finish(seconds)
            self._desk.close()

    def _move_patiently(self, delivery: Delivery, reason: str) -> None:
        tries = 0
        pause = threading.Event()
        while True:
            try:
                self._move(delivery, reason)
            except CALL_ERRORS as error:
                tries += 1
                self._spell.failed(describe(error))
                pause.wait(pause_seconds(tries))
            else:
                self._spell.worked()
                return

    def _move(self, delivery: Delivery, reason: str) -> None:
        target = delivery.queue.dead_letter_url
        if target is None:
            redrive = self._sqs.redrive(delivery.queue)
            target = redrive.dead_letter_url
            if target is None and not redrive.known:
                log.error(
                    'queue "%s": message %s cannot be worked on (%s), and its dead-letter queue is not known: grant '
                    "sqs:GetQueueAttributes or set dead_letter_url. It goes back until its redrive policy takes it.",
                    delivery.queue.name,
                    delivery.message_id,
                    reason,
                )
                self._settler.hand_back(delivery, _UNKNOWN_PAUSE_SECONDS)
                return
        if not target:
            log.critical(
                'queue "%s" has no dead-letter queue, so message %s is deleted: %s; its body: %s; its attributes: %s',
                delivery.queue.name,
                delivery.message_id,
                reason,
                delivery.body,
                delivery.attributes,
            )
            self._settler.delete(delivery)
            return
        log.error(
            'queue "%s": message %s (task %s) goes to the dead-letter queue: %s',
            delivery.queue.name,
            delivery.message_id,
            delivery.task_id,
            reason,
        )
        entry = self.entry(delivery, reason)
        if target.endswith(".fifo"):
            entry |= {"MessageGroupId": delivery.group or "default", "MessageDeduplicationId": str(uuid.uuid4())}
        elif delivery.group:
            entry["MessageGroupId"] = delivery.group
        self._settler.replace(delivery, target, entry, on_refused=_with_less)

    def entry(self, delivery: Delivery, reason: str) -> dict[str, Any]:
        """What is sent to the dead-letter queue: the body as it came, and its story as attributes."""
        story = {
            REASON: reason[:_LONGEST_REASON] or "unknown",
            AT: datetime.now(UTC).isoformat(timespec="seconds"),
            QUEUE: delivery.queue.name,
            WORKER: f"{os.getpid()}@{socket.gethostname()}",
            RECEIVES: str(delivery.receives),
        }
        attributes = {name: {"DataType": "String", "StringValue": sendable(text)} for name, text in story.items()}
        for name, value in sorted(delivery.attributes.items(), key=lambda each: each[0] != REDRIVES):
            if len(attributes) < _MOST_ATTRIBUTES and name not in attributes:
                attributes[name] = value
        return {"MessageBody": delivery.body, "MessageAttributes": attributes}


def _with_less(step: Step, reason: str) -> Step | None:
    """SQS refused it, likely for its size: once more with the story cut short, then with none.

    The count of redrives stays: the message had it when it came, so there is room.
    """
    attributes = step.entry.get("MessageAttributes") or {}
    kept = {name: value for name, value in attributes.items() if name == REDRIVES}
    if attributes == kept:
        return None
    if len(attributes) > len(kept) + 1:
        kept[REASON] = {"DataType": "String", "StringValue": attributes[REASON]["StringValue"][:100]}
    less = {name: value for name, value in step.entry.items() if name != "MessageAttributes"}
    if kept:
        less["MessageAttributes"] = kept
    step.entry = less
    return step


def sendable(text: str) -> str:
    """The text without the characters that SQS refuses (https://www.w3.org/TR/REC-xml/#charsets)."""
    return "".join(
        each
        if each in "\t\n\r" or " " <= each <= "\ud7ff" or "\ue000" <= each <= "\ufffd" or each >= "\U00010000"
        else "?"
        for each in text
    )
