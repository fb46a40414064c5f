"""Plays EventBridge: from a span of time to what was due in it, and from there to its targets."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config

from serverless.local.clock.delivering import Courier, UndeliverableError, is_slow
from serverless.local.clock.firings import MINUTE, Firing, stamp
from serverless.local.clock.sources import Source, Sources
from serverless.local.clock.state import State

log = logging.getLogger(__name__)

#: AWS tries for so long; what was due before that is lost.
LONGEST_AGE = timedelta(hours=24)
#: A clock that is put back by less stands still until its time comes again.
_TURNED_BACK = timedelta(minutes=10)
_MOST_LINES = 20
_SLOW_AT_ONCE = 16
# A function may work for a quarter of an hour, and must not be invoked twice for want of an answer.
_CONFIG = Config(connect_timeout=5, read_timeout=910, retries={"total_max_attempts": 1})


class Clock:
    """state: of the clock before. is_exact: fire at the due time, and not somewhere in a flexible window.

    on_rules: told of the rules that are there, with the span, once a round. stopped: set it to have it send no more.
    """

    def __init__(
        self,
        state: State,
        *,
        is_exact: bool = False,
        on_rules: Callable[[list[Source], datetime, datetime], None] | None = None,
    ) -> None:
        session = boto3.session.Session()
        clients: dict[str, Any] = {
            service: session.client(service, config=_CONFIG) for service in ("scheduler", "events", "sqs", "lambda")
        }
        self.state = state
        self._sources = Sources(clients)
        self._courier = Courier(clients)
        self._is_exact = is_exact
        self._on_rules = on_rules
        self._slow = ThreadPoolExecutor(_SLOW_AT_ONCE, "firing")
        self._on_the_way: set[str] = set()
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def play(self, until: datetime) -> None:
        """What was due since the state's time, and what is to be tried again; a failure is tried again next round.

        Raises what botocore raises where the local cloud does not answer; then all is as before.
        """
        after = self._beginning(until)
        schedules = self._collect(after, until, lambda source: source.since_creation(after))
        for firing in self._ready(until):
            if self.stopped.is_set():
                break
            if is_slow(firing):
                with self._lock:
                    self._on_the_way.add(firing.id)
                self._slow.submit(self._attempt_slowly, firing, until)
            else:
                self._attempt(firing, until)
        self._finish(schedules, until)

    def jump(self, after: datetime, until: datetime) -> None:
        """Play (after, until] as if it were that time, whenever a schedule was created; further tries come at once.

        Returns when functions have answered as well.
        """
        schedules = self._collect(after, until, lambda source: after)
        while ready := self._ready(until):
            for firing in ready:
                self._attempt(firing, firing.not_before)
        self._finish(schedules, until)

    def close(self) -> None:
        """Keep what is on its way for the next start."""
        with self._lock:
            self.state.save()

    def _beginning(self, until: datetime) -> datetime:
        played = self.state.played
        if played is None or played > until + _TURNED_BACK:
            # The first start, or a machine whose time was put back.
            return until - MINUTE
        if played < until - LONGEST_AGE:
            log.warning("what was due before %s is lost, as after a day at AWS", stamp(until - LONGEST_AGE))
            return until - LONGEST_AGE
        return played

    def _collect(self, after: datetime, until: datetime, since: Callable[[Source], datetime]) -> list[Source]:
        """Put what is due onto its way, which the state has before anything is sent; the schedules that there are."""
        schedules, rules = self._sources.schedules(), self._sources.rules()
        due = [
            firing
            for source in [*schedules, *rules]
            for firing in source.firings(since(source), until, is_exact=self._is_exact)
        ]
        due.sort(key=lambda firing: (firing.due, firing.arn))
        _tell(due)
        with self._lock:
            self.state.pending.update((firing.id, firing) for firing in due)
            self.state.played = max(after, until)
            self.state.save()
        if self._on_rules is not None:
            self._on_rules(rules, after, until)
        return schedules

    def _ready(self, now: datetime) -> list[Firing]:
        """What is to be tried by now, the oldest first."""
        with self._lock:
            found = [
                firing
                for firing in self.state.pending.values()
                if firing.not_before <= now and firing.id not in self._on_the_way
            ]
        return sorted(found, key=lambda firing: (firing.not_before, firing.due, firing.arn))

    def _attempt(self, firing: Firing, now: datetime) -> None:
        try:
            self._courier.deliver(firing)
        except UndeliverableError as error:
            condition = firing.failed(error.code, error.message, now)
            if not condition:
                log.warning("%s: %s took nothing, and is tried again: %s", firing.name, firing.target_arn, error)
                return
            log.error("%s: %s took nothing, which ends with %s: %s", firing.name, firing.target_arn, condition, error)
            self._courier.bury(firing, condition)
        with self._lock:
            self.state.pending.pop(firing.id, None)

    def _attempt_slowly(self, firing: Firing, now: datetime) -> None:
        try:
            self._attempt(firing, now)
        except Exception:  # a thread has nobody to raise to; it is pending still
            log.exception("%s could not be sent, and is tried again", firing.arn)
        finally:
            with self._lock:
                self._on_the_way.discard(firing.id)
                self.state.save()

    def _finish(self, schedules: list[Source], now: datetime) -> None:
        with self._lock:
            self.state.save()
            unfinished = {firing.arn for firing in self.state.pending.values()}
        for source in schedules:
            if source.arn not in unfinished and source.is_complete(now):
                self._sources.delete(source.arn)


def _tell(due: list[Firing]) -> None:
    for firing in due[:_MOST_LINES]:
        log.info("%s is due at %s: %s", firing.name, stamp(firing.due), firing.target_arn.rpartition(":")[2])
    if len(due) > _MOST_LINES:
        targets = Counter(firing.target_arn.rpartition(":")[2] for firing in due[_MOST_LINES:])
        more = ", ".join(f"{count} to {name}" for name, count in targets.most_common())
        log.info("and %d more are due: %s", len(due) - _MOST_LINES, more)
