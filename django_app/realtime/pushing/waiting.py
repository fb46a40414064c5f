"""What is to be pushed, and when. Pure. Of each key the first at once, the next not before its time, the last always.

A push says that something has changed, not what: it reads the state when it runs. So of two for one key the later one
is enough.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

Push = Callable[[], object]

#: Seconds before it is tried again what has failed once, twice, three times; then it is let be.
PAUSES = (0.2, 1.0, 4.0)


@dataclass
class Waiter:
    """A push that waits. due: when it may run. number: of the entry in the heap.

    every_seconds: so long nothing else of its key runs. may_drop: where too many wait, the oldest of these go.
    is_patient: nobody waits for it, and a process that ends leaves it undone.
    """

    key: Hashable
    push: Push
    due: float
    number: int
    every_seconds: float
    may_drop: bool
    is_patient: bool
    tries: int = 0


class Waiting:
    """Pushes by key. most: how many wait at most. Times are of any one clock, in seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiters: OrderedDict[Hashable, Waiter] = OrderedDict()
        self._heap: list[tuple[float, int, Hashable]] = []
        self._numbers = itertools.count()
        #: Until when nothing of a key runs.
        self._until: dict[Hashable, float] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def is_awaited(self) -> bool:
        """Whether there is something that somebody may wait for."""
        return any(not each.is_patient for each in self._waiters.values())

    def add(
        self,
        key: Hashable,
        push: Push,
        now: float,
        *,
        every_seconds: float,
        after_seconds: float = 0.0,
        may_drop: bool = False,
        is_patient: bool = False,
    ) -> None:
        """Have it run as soon as it may, after_seconds from now at the earliest, instead of what waits for its key."""
        waiter = self._waiters.get(key)
        if waiter is not None:
            waiter.push, waiter.tries, waiter.every_seconds = push, 0, every_seconds
            return
        if len(self._waiters) >= self._most:
            self._drop_one()
        due = max(now + after_seconds, self._until.get(key, now))
        self._place(Waiter(key, push, due, 0, every_seconds, may_drop, is_patient))

    def _place(self, waiter: Waiter) -> None:
        waiter.number = next(self._numbers)
        # In this order: a task's soft time limit may come in between, and an entry without a waiter is passed over.
        heapq.heappush(self._heap, (waiter.due, waiter.number, waiter.key))
        self._waiters[waiter.key] = waiter

    def _drop_one(self) -> None:
        dropped = next((each for each in self._waiters.values() if each.may_drop), None)
        self._waiters.pop(dropped.key if dropped else next(iter(self._waiters)))
        self.dropped += 1

    def take(self, now: float) -> Waiter | None:
        """The one that is due first, which waits no longer; None where none is."""
        while self._heap and self._heap[0][0] <= now:
            _, number, key = heapq.heappop(self._heap)
            waiter = self._waiters.get(key)
            if waiter is not None and waiter.number == number:
                del self._waiters[key]
                self._rest(key, now, waiter.every_seconds)
                return waiter
        return None

    def _rest(self, key: Hashable, now: float, seconds: float) -> None:
        self._until[key] = now + seconds
        if len(self._until) > 2 * self._most:
            self._until = {key: until for key, until in self._until.items() if until > now}

    def put_back(self, waiter: Waiter, now: float) -> bool:
        """It has failed: try again in a while. False where it is let be, after the last try or for a newer one."""
        if waiter.key in self._waiters or waiter.tries >= len(PAUSES):
            return False
        waiter.due = now + PAUSES[waiter.tries]
        waiter.tries += 1
        self._place(waiter)
        return True

    def next_due(self) -> float | None:
        """When the next one is due; None where none waits."""
        while self._heap:
            due, number, key = self._heap[0]
            waiter = self._waiters.get(key)
            if waiter is not None and waiter.number == number:
                return due
            heapq.heappop(self._heap)
        return None

    def hurry(self, now: float) -> None:
        """The process ends: all are due, but for the patient ones."""
        for waiter in list(self._waiters.values()):
            if not waiter.is_patient and waiter.due > now:
                waiter.due = now
                self._place(waiter)
