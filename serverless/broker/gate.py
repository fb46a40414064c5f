"""Whether this process receives just now: closed for a while by whoever wants to be able to take the process away.

No poll is begun while it is closed. What was received and not begun is handed back at once; what runs is finished, and
stays leased. `load` says when nothing is left. A container's task protection is given up that way.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any, NamedTuple

_lock = threading.Lock()
_closed = False
#: Each channel's Consuming.
_consuming: weakref.WeakSet[Any] = weakref.WeakSet()


class Load(NamedTuple):
    """What the process has taken from SQS and not settled.

    held: messages, those of which SQS is still being told included. polls: under way, each of which may bring more.
    longest_seconds: since the oldest of them was received.
    """

    held: int
    polls: int
    longest_seconds: float


def join(consuming: Any) -> None:
    """Have a channel's consuming side obey from now on."""
    with _lock:
        _consuming.add(consuming)


def leave(consuming: Any) -> None:
    """It has ended: what SQS could not be told of shows again by itself, and is not waited for."""
    with _lock:
        _consuming.discard(consuming)


def close() -> None:
    """Begin nothing more, and hand back what has not begun. Call it again while there is load: more may have come."""
    global _closed  # noqa: PLW0603
    _closed = True
    for each in _all():
        each.release_unstarted()


def open_again() -> None:
    global _closed  # noqa: PLW0603
    _closed = False
    for each in _all():
        each.receiver.look_again()


def is_closed() -> bool:
    return _closed


def load() -> Load:
    """Counted behind the lock that pollers take before each poll: after `close`, what is not in it does not come."""
    held, polls, oldest = 0, 0, time.monotonic()
    for each in _all():
        with each.holdings.changed:
            deliveries = each.holdings.all()
            held += len(deliveries)
            polls += each.receiver.polls_under_way
            oldest = min([oldest, *(delivery.received_at for delivery in deliveries)])
    return Load(held, polls, time.monotonic() - oldest)


def _all() -> list[Any]:
    with _lock:
        return list(_consuming)
