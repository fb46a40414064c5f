"""One schedule that should exist at EventBridge Scheduler: its name there, and what it is created with. Pure.

The name carries a hash of the definition. So a list of names tells what has changed, a hundred schedules a request, and
a changed schedule is a new one that is created before the old one goes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from serverless.scheduler import expressions
from serverless.scheduler.errors import ScheduleError

#: Characters of a description, as EventBridge counts them.
_LONGEST_DESCRIPTION = 512
_LONGEST_SLUG = 30
_LOGICAL_DIGITS = 10
_DEFINITION_DIGITS = 12
#: What EventBridge takes, by the field of Wanted: (least, most, unit).
_LIMITS = {
    "window_minutes": (0, 1440, "minutes"),
    "max_age_seconds": (60, 86400, "seconds"),
    "max_retries": (0, 185, "retries"),
}
#: A rate comes again within this; EventBridge's own limit is higher, ours is a year.
_LONGEST_RATE = timedelta(days=400)


@dataclass(frozen=True)
class Wanted:
    """One AWS schedule that should exist.

    logical: the schedule that it is a part of, any text; several AWS schedules may be one logical schedule.
    expression, zone: EventBridge's. anchor: where a rate's grid begins, aware; None for what is no rate.
    target_arn: of a queue or a function. input: what it is sent. role_arn: what EventBridge becomes to send it.
    window_minutes: within how many after its time it may fire; 0: at its time.
    ends_at: aware; it fires no more after that. max_age_seconds, max_retries: of one firing that cannot be delivered.
    """

    logical: str
    expression: str
    zone: str
    anchor: datetime | None
    target_arn: str
    input: str
    role_arn: str
    dead_letter_arn: str
    window_minutes: int
    ends_at: datetime | None
    max_age_seconds: int
    max_retries: int
    description: str

    def __post_init__(self) -> None:
        for name in ("anchor", "ends_at"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise ScheduleError(
                    f'schedule "{self.logical}": {name}={moment.isoformat()} has no time zone. Give an aware datetime.'
                )
        for name, (least, most, unit) in _LIMITS.items():
            number = getattr(self, name)
            if not least <= number <= most:
                raise ScheduleError(
                    f'schedule "{self.logical}": {name}={number} is not within {least} and {most} {unit}, '
                    "which EventBridge takes. Correct it."
                )

    @property
    def name(self) -> str:
        """What it is called at AWS."""
        return prefix(self.logical) + _hash(json.dumps(self._definition(), sort_keys=True), _DEFINITION_DIGITS)

    def starts_at(self, now: datetime) -> datetime | None:
        """A rate's first time after now, on its grid; None for what is no rate, and for a rate that has ended by then.

        Counted from there the rate stays on its grid, whenever it is created: AWS takes no StartDate of long ago.
        """
        if self.anchor is None:
            return None
        end = min(now + _LONGEST_RATE, self.ends_at or datetime.max.replace(tzinfo=UTC))
        return next(expressions.parse(self.expression, self.zone, self.anchor).times(now, end), None)

    def is_over(self, now: datetime) -> bool:
        """Whether it will not fire any more. AWS would refuse to create it."""
        if self.ends_at is None:
            return False
        return self.ends_at <= now or (self.anchor is not None and self.starts_at(now) is None)

    def request(self, now: datetime) -> dict[str, Any]:
        """What CreateSchedule and UpdateSchedule are called with, but for the group."""
        window: dict[str, Any] = {"Mode": "OFF"}
        if self.window_minutes:
            window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": self.window_minutes}
        made: dict[str, Any] = {
            "Name": self.name,
            "Description": self.description[:_LONGEST_DESCRIPTION],
            "ScheduleExpression": self.expression,
            "ScheduleExpressionTimezone": self.zone,
            "FlexibleTimeWindow": window,
            "State": "ENABLED",
            "Target": {
                "Arn": self.target_arn,
                "RoleArn": self.role_arn,
                "Input": self.input,
                "DeadLetterConfig": {"Arn": self.dead_letter_arn},
                "RetryPolicy": {
                    "MaximumEventAgeInSeconds": self.max_age_seconds,
                    "MaximumRetryAttempts": self.max_retries,
                },
            },
        }
        start = self.starts_at(now)
        if start is not None:
            made["StartDate"] = start
        if self.ends_at is not None:
            made["EndDate"] = self.ends_at
        return made

    def is_as(self, found: Mapping[str, Any], now: datetime) -> bool:
        """Whether what GetSchedule found is this, whoever changed it meanwhile."""
        wanted = self.request(now)
        start = wanted.pop("StartDate", None)
        if any(found.get(name) != value for name, value in wanted.items()):
            return False
        if self.ends_at is None and found.get("EndDate") is not None:
            return False
        return self._keeps_time(found.get("StartDate"), start)

    def _keeps_time(self, found: datetime | None, wanted: datetime | None) -> bool:
        """Whether a rate that counts from `found` falls on the grid, now."""
        if found is None or wanted is None:
            return found is wanted
        return found <= wanted and wanted in expressions.parse(self.expression, self.zone, found).times(
            wanted - timedelta(minutes=1), wanted
        )

    def _definition(self) -> dict[str, Any]:
        values = {**vars(self)}
        for name in ("anchor", "ends_at"):
            moment = values[name]
            values[name] = None if moment is None else moment.astimezone(UTC).isoformat()
        return values


def prefix(logical: str) -> str:
    """What the names of one logical schedule's AWS schedules begin with, and no others'."""
    slug = re.sub(r"[^0-9A-Za-z_.]+", "-", logical)[:_LONGEST_SLUG].strip("-") or "schedule"
    return f"{slug}-{_hash(logical, _LOGICAL_DIGITS)}-"


def prefix_of(name: str) -> str:
    """The same, of an AWS name."""
    return name[:-_DEFINITION_DIGITS]


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
