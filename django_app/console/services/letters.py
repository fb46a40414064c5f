"""Dead letters. SQS is asked while a person waits, and takes part in no transaction."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection
from typing import TypeVar

from django.conf import settings
from django.utils import timezone

from django_app.console import audit
from django_app.console.errors import NotVisibleError, RefusalError
from django_app.console.services.acting import Actor, Done
from serverless.broker.queue_calls import QueueError
from tasks.runtime import dead_letters
from tasks.topology import TOPOLOGY

T = TypeVar("T")
#: Letters that a page shows.
MOST_SHOWN = 50
#: What happened to letters so long ago may be why they are gone.
_RECENT = datetime.timedelta(hours=1)


def peek(queue: str) -> dead_letters.Listing:
    """What lies in a queue's dead-letter queue. Raises NotVisibleError, RefusalError."""
    return _ask(queue, lambda: dead_letters.peek(queue, MOST_SHOWN))


def redrive(actor: Actor, queue: str, messages: Collection[str] | None) -> Done:
    """Work on dead letters once more. messages: ids; None: all, up to a bound."""
    done = _ask(queue, lambda: dead_letters.redrive(queue, messages, by=actor.name))
    return _told(queue, messages, done, "sent to work again")


def discard(actor: Actor, queue: str, messages: Collection[str] | None) -> Done:
    """Delete dead letters for good."""
    done = _ask(queue, lambda: dead_letters.discard(queue, messages, by=actor.name))
    return _told(queue, messages, done, "discarded")


def _ask(queue: str, work: Callable[[], T]) -> T:
    if queue not in TOPOLOGY.queues:
        raise NotVisibleError
    if not settings.BROKER_URL.startswith("sqs:"):
        raise RefusalError(
            "queue", queue, "its broker is not SQS, and so it has no dead-letter queue", "Set BROKER_URL to sqs://."
        )
    try:
        return work()
    except QueueError as error:
        raise RefusalError(
            "queue", queue, f"SQS did not do it: {error.reason.rstrip('. ')}", str(error), 502
        ) from error


def _told(queue: str, messages: Collection[str] | None, done: dead_letters.Done, verb: str) -> Done:
    asked = None if messages is None else len(set(messages))
    missing = max(0, asked - len(done.moved) - len(done.left)) if asked is not None else 0
    if not done.moved and not done.left:
        raise RefusalError("dead letters", queue, _why_none(queue, done, asked=asked), "Look at the queue again.")
    message = f"{len(done.moved)} {verb}."
    if done.left:
        message += f" {len(done.left)} stay: {done.left[0][1]}"
    if missing:
        message += f" {missing} were no longer there."
    if not done.complete:
        message += " There may be more: look again."
    data = {
        "moved": [{"run": run_id, "what": what} for run_id, what in done.moved],
        "left": [{"message": message_id, "why": why} for message_id, why in done.left],
        "missing": missing,
        "complete": done.complete,
    }
    return Done(message, {"moved": len(done.moved), "left": len(done.left), "missing": missing}, data)


def _why_none(queue: str, done: dead_letters.Done, *, asked: int | None) -> str:
    if not done.complete:
        return "SQS gave none of them out this time, and there may be some"
    rule = "none is there" if asked is None else "none of them is there any more"
    entry = audit.last(("redrive", "discard"), f"dead letters of {queue}", since=timezone.now() - _RECENT)
    return f"{rule}; the last {entry.action} was{audit.told(entry)}" if entry is not None else rule
