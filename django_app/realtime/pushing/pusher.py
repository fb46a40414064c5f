"""A thread that pushes: whoever has changed something goes on at once, however slow the way to the browser is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from weakref import WeakMethod

import structlog

from django_app.realtime.pushing.waiting import Push, Waiter, Waiting

log = structlog.get_logger(__name__)

#: Keys whose pushes wait at most.
_MOST = 1000
#: The thread ends when there has been nothing to do for so long.
_IDLE_SECONDS = 5.0
#: How often it is told that pushes fail or are dropped.
_TELL_SECONDS = 60.0


def _begin_again(found: WeakMethod[Callable[[], None]]) -> None:
    begin = found()
    if begin is not None:
        begin()


class Pusher:
    """One thread a process, begun when there is something to push, and anew in a forked child.

    release: gives back what pushes hold on to, such as a database connection. Called in the thread, when nothing was to
    do for idle_seconds, when a push has failed, and before `flush` says that all is done.
    most: keys whose pushes wait at most.
    """

    def __init__(
        self, release: Callable[[], object] = lambda: None, *, most: int = _MOST, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        self._release = release
        self._most, self._idle_seconds = most, idle_seconds
        self._begin()
        os.register_at_fork(after_in_child=partial(_begin_again, WeakMethod(self._begin)))

    def _begin(self) -> None:
        # A forked child has no such thread, which may have held the lock; and what waits is its parent's.
        self._changed = threading.Condition(threading.Lock())
        self._waiting = Waiting(self._most)
        self._thread: threading.Thread | None = None
        self._running: Waiter | None = None
        self._worked_at = 0.0
        self._is_holding = False
        self._is_flushed = False
        self._failed = self._dropped_before = 0
        self._told_at = float("-inf")

    def soon(
        self,
        key: Hashable,
        push: Push,
        *,
        every_seconds: float,
        after_seconds: float = 0.0,
        may_drop: bool = False,
        is_patient: bool = False,
    ) -> None:
        """Have the thread call it, see Waiting.add. What it raises is logged, and it is tried again."""
        with self._changed:
            self._waiting.add(
                key,
                push,
                time.monotonic(),
                every_seconds=every_seconds,
                after_seconds=after_seconds,
                may_drop=may_drop,
                is_patient=is_patient,
            )
            if self._thread is None:
                self._start()
            else:
                self._changed.notify_all()

    def _start(self) -> None:
        self._worked_at = time.monotonic()
        thread = threading.Thread(target=self._work, name="pusher", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The interpreter is about to end, or there are too many. The next one tries again.
            log.warning("pusher_not_started", error=str(error))
        else:
            self._thread = thread

    def flush(self, seconds: float) -> bool:
        """Push what waits now, and wait so long at most; whether all is done and given back."""
        with self._changed:
            if self._thread is None:
                return not self._waiting.is_awaited
            self._waiting.hurry(time.monotonic())
            self._is_flushed = True
            self._changed.notify_all()
            return self._changed.wait_for(self._is_done, seconds)

    def _is_done(self) -> bool:
        if self._waiting.is_awaited:
            return False
        return self._running.is_patient if self._running is not None else not self._is_holding

    # In the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (step := self._next()) is not None:
            step()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next, when it is; None: the thread is to end."""
        with self._changed:
            self._running = None
            while True:
                now = time.monotonic()
                self._running = self._waiting.take(now)
                if self._running is not None:
                    self._is_holding = True
                    return partial(self._call, self._running)
                is_over = now - self._worked_at >= self._idle_seconds
                if self._is_holding and (is_over or (self._is_flushed and not self._waiting.is_awaited)):
                    # Before it is done: whoever asks meanwhile is not to be forgotten.
                    self._is_flushed = False
                    return self._let_go
                due = self._waiting.next_due()
                if due is None and is_over:
                    self._thread = None
                self._changed.notify_all()
                if self._thread is None:
                    return None
                self._changed.wait((self._worked_at + self._idle_seconds if due is None else due) - now)

    def _call(self, waiter: Waiter) -> None:
        failure = ""
        try:
            waiter.push()
        except BaseException as error:
            # That of a coroutine that was cancelled is no Exception, and the thread goes on whatever it was.
            failure = f"{type(error).__name__}: {error}"
            with self._changed:
                self._waiting.put_back(waiter, time.monotonic())
            # Its connection may be what is broken.
            self._let_go()
        self._worked_at = time.monotonic()
        self._tell(failure)

    def _let_go(self) -> None:
        try:
            self._release()
        except Exception:
            log.exception("pusher_gave_nothing_back")
        self._is_holding = False

    def _tell(self, failure: str) -> None:
        """Log what was not pushed, once a minute."""
        self._failed += bool(failure)
        dropped = self._waiting.dropped - self._dropped_before
        if (self._failed or dropped) and time.monotonic() - self._told_at >= _TELL_SECONDS:
            self._told_at = time.monotonic()
            log.warning("pushes_not_made", failed=self._failed, dropped=dropped, error=failure)
            self._failed, self._dropped_before = 0, self._waiting.dropped
