"""Plays a stage's `events` where no function is deployed: their handlers are called in this process, as Lambda would.

What a stage's events are for is done every few minutes and is safe to be left out, so of several due times that were
missed the last one alone is played; and of an event whose handler is still at work, none.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serverless.deploying import stages
from serverless.local.clock.firings import stamp
from serverless.local.clock.sources import Source
from serverless.scheduler import expressions
from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.expressions import Expression

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Zappa's, where a stage has no timeout_seconds.
_TIMEOUT_SECONDS = 30
_REGION, _ACCOUNT = "us-east-1", "123456789012"


@dataclass(frozen=True)
class StageEvent:
    """One entry of `events`. kwargs: what its rule adds to EventBridge's own event."""

    name: str
    expressions: tuple[Expression, ...]
    kwargs: dict[str, Any]

    def last_due(self, after: datetime, until: datetime) -> datetime | None:
        """Its last due time in (after, until]."""
        return max((due for each in self.expressions for due in each.times(after, until)), default=None)


class StageEvents:
    """stage: its name. handler: what is called for a name of EVENT_HANDLERS, with the event and the invocation."""

    def __init__(
        self, file: Path, stage: str, handler: Callable[[str], Callable[[dict[str, Any], Any], object]]
    ) -> None:
        settings = stages.resolve(stages.read(file), stage)
        self._function = stages.function_name(stage, settings)
        self._timeout_seconds = float(settings.get("timeout_seconds", _TIMEOUT_SECONDS))
        self._events = list(_read(settings.get("events", [])))
        self._handler = handler
        self._working: dict[str, threading.Thread] = {}

    def play(self, rules: list[Source], after: datetime, until: datetime) -> None:
        """Call the handlers of what is due, each in a thread of its own."""
        if any(rule.target["Arn"].split(":")[6:7] == [self._function] for rule in rules):
            # It is deployed to the local cloud, and its rules are played.
            return
        for event in self._events:
            due = event.last_due(after, until)
            if due is None:
                continue
            before = self._working.get(event.name)
            if before is not None and before.is_alive():
                log.warning("event %s is due at %s, and its handler still at work: left out", event.name, stamp(due))
                continue
            thread = threading.Thread(target=self._call, args=(event, due), name=f"event-{event.name}", daemon=True)
            self._working[event.name] = thread
            thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until all handlers have ended, or so long."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in list(self._working.values()):
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _call(self, event: StageEvent, due: datetime) -> None:
        from django.db import connections

        from serverless.entrypoints.invocation import Invocation

        name = event.kwargs["event"]
        try:
            self._handler(name)(self._event(event, due), Invocation(LocalContext(self._timeout_seconds)))
        except BaseException:
            log.exception("event %s: the handler of %s failed", event.name, name)
        finally:
            # They are this thread's own.
            connections.close_all()

    def _event(self, event: StageEvent, due: datetime) -> dict[str, Any]:
        """As the rule that Zappa makes of it sends it."""
        rule = f"arn:aws:events:{_REGION}:{_ACCOUNT}:rule/{self._function}-{event.name}"
        return {
            "time": stamp(due),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": _ACCOUNT,
            "region": _REGION,
            "detail": {},
            "version": "0",
            "resources": [rule],
            "id": str(uuid.uuid4()),
            "kwargs": event.kwargs,
        }


class LocalContext:
    """What Lambda's runtime makes for each invocation; nobody ends the handler here when its time is over."""

    def __init__(self, timeout_seconds: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._deadline = time.monotonic() + timeout_seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def handler_of(name: str) -> Callable[[dict[str, Any], Any], object]:
    """What EVENT_HANDLERS names."""
    from django.conf import settings
    from django.utils.module_loading import import_string

    path = settings.EVENT_HANDLERS.get(name)
    if path is None:
        known = ", ".join(sorted(settings.EVENT_HANDLERS))
        raise LookupError(f'"{name}" is no name of EVENT_HANDLERS ({known}). Add it, or correct zappa_settings.json.')
    handler: Callable[[dict[str, Any], Any], object] = import_string(path)
    return handler


def _read(entries: Iterable[dict[str, Any]]) -> Iterable[StageEvent]:
    for entry in entries:
        texts = [entry["expression"]] if entry.get("expression") else entry.get("expressions", [])
        name = str(entry.get("name") or entry.get("function"))
        if not texts or not entry.get("enabled", True):
            # Records of a queue or a bucket, or switched off.
            continue
        try:
            parsed = tuple(expressions.parse(text, "UTC", _EPOCH) for text in texts)
        except ScheduleError as error:
            raise ValueError(f"zappa_settings.json: event {json.dumps(name)}: {error}") from error
        yield StageEvent(name, parsed, dict(entry["kwargs"]))
