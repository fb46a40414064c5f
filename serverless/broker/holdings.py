"""What a consuming channel holds: every message that was received and is not yet deleted or handed back.

One lock guards it all: threads that receive, renew and settle share it with Celery's event loop.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from serverless.broker.options import QueueOptions


class State(Enum):
    """Where a delivery stands."""

    HELD = "held"  # waits for Celery, or Celery works on it: it takes room
    SETTLING = "settling"  # Celery is done with it, SQS is being told; it stays leased until SQS has confirmed
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Delivery:
    """One receive of one message.

    receipt: SQS's receipt handle, also kombu's delivery tag.
    receives: how often SQS has handed the message out, this time included.
    attributes: message attributes, as SQS gave them.
    task_id, eta: from the headers, once they are read; eta is a time.time().
    renewed_at: time.monotonic() from when the present lease counts, for lease_seconds. received_at: likewise.
    lost: its lease is gone, or was given up; it is not renewed.
    delivered: handed to Celery. begun: a process or thread of the pool has it. request: a weak reference to Celery's.
    kept: Celery has forgotten it, and its outcome is being recorded: whoever records it settles it.
    went_back: it was handed back healthy. missing_since: time.monotonic() since when Celery has not known it.
    max_receives: of its queue's redrive policy, as far as it is known.

    Celery's event loop begins a delivery, and other threads give back what is not begun, without a common lock (see
    desk.py). So each first says what it does and then looks at the other: `begin` marks it begun and then looks at the
    state; who gives it back settles it and then looks at `begun`. Both may step back; never do both go on.
    """

    receipt: str
    queue: QueueOptions
    message_id: str
    body: str
    receives: int
    attributes: dict[str, Any]
    group: str | None
    renewed_at: float
    state: State = State.HELD
    task_id: str | None = None
    eta: float | None = None
    lease_seconds: float = 60.0
    lost: bool = False
    delivered: bool = False
    begun: bool = False
    kept: bool = False
    went_back: bool = False
    request: Any = None
    missing_since: float | None = None
    max_receives: int | None = None
    received_at: float = field(default_factory=time.monotonic)

    def begin(self) -> bool:
        """Note that the pool has it; False if it must not begin: it was given back, or its lease is over."""
        self.begun = True
        if self.state is not State.HELD or self.lost or time.monotonic() - self.renewed_at >= self.lease_seconds:
            self.begun = False
        return self.begun


class Holdings:
    """Deliveries by receipt, and how much room they leave."""

    def __init__(self) -> None:
        #: Notified whenever room may have grown or a poller's standing changed.
        self.changed = threading.Condition(threading.RLock())
        self._deliveries: dict[str, Delivery] = {}
        self._held: Counter[str] = Counter()
        self._prefetch: dict[str, int] = {}
        self._early: set[Delivery] = set()
        self._settling = 0

    def add(self, deliveries: Iterable[Delivery]) -> None:
        with self.changed:
            for delivery in deliveries:
                self._deliveries[delivery.receipt] = delivery
                self._held[delivery.queue.name] += 1
                self._prefetch[delivery.queue.name] = delivery.queue.prefetch

    def get(self, receipt: str) -> Delivery | None:
        return self._deliveries.get(receipt)

    def mark_early(self, delivery: Delivery) -> None:
        """Its eta lies ahead: Celery holds it on a timer, and raises its prefetch count by one meanwhile."""
        with self.changed:
            self._early.add(delivery)

    def settle(self, delivery: Delivery) -> bool:
        """Celery is done with it: its room is free at once. False if it had been settled before."""
        with self.changed:
            if delivery.state is not State.HELD:
                return False
            delivery.state = State.SETTLING
            self._held[delivery.queue.name] -= 1
            self._early.discard(delivery)
            self._settling += 1
            return True

    def drop(self, delivery: Delivery) -> None:
        """SQS has confirmed, or will never: forget it."""
        with self.changed:
            if self._deliveries.pop(delivery.receipt, None) is None:
                return
            if delivery.state is State.HELD:
                self._held[delivery.queue.name] -= 1
                self._early.discard(delivery)
            else:
                self._settling -= 1
            delivery.state = State.GONE

    def unsettle(self, delivery: Delivery) -> None:
        """Take a `settle` back, before anything was said of it."""
        with self.changed:
            delivery.state = State.HELD
            self._held[delivery.queue.name] += 1
            self._settling -= 1

    @property
    def held(self) -> int:
        with self.changed:
            return sum(self._held.values())

    @property
    def settling(self) -> int:
        return self._settling

    def slots_used(self) -> float:
        """Slots of the prefetch count that are taken: a message of a queue with prefetch 10 takes a tenth of one."""
        with self.changed:
            used = sum(count / self._prefetch[name] for name, count in self._held.items())
            if self._early:
                now = time.time()
                # While Celery waits for an eta it has raised its prefetch count by one for it.
                used += sum(
                    1 - 1 / delivery.queue.prefetch for delivery in self._early if delivery.eta and delivery.eta > now
                )
            return used

    def all(self) -> list[Delivery]:
        with self.changed:
            return list(self._deliveries.values())

    def all_held(self) -> list[Delivery]:
        return [delivery for delivery in self.all() if delivery.state is State.HELD]
