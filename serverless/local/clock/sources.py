"""What can fire: schedules and rules, as they stand in the local cloud at this moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from serverless.local.clock.firings import MINUTE, Firing, delay_in_window
from serverless.scheduler import expressions
from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.expressions import Expression, Rate

log = logging.getLogger(__name__)

_MOMENT = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Source:
    """One schedule, or one target of one rule.

    kind: "schedule" or "rule". starts_at, ends_at: none fires outside. created_at: None for a rule, whose creation
    nobody tells. deletes: whether a schedule goes when it has nothing left to fire. stamp: changes with what it says.
    """

    kind: str
    arn: str
    expression: Expression
    target: dict[str, Any]
    window_minutes: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    created_at: datetime | None = None
    deletes: bool = False

    def firings(self, after: datetime, until: datetime, *, is_exact: bool) -> Iterator[Firing]:
        """Its due times in (after, until]. is_exact: at them, and not somewhere in the window after."""
        lowest = after
        if self.starts_at is not None:
            # By the minute: a start of 08:00:30 is one of 08:00.
            lowest = max(after, self.starts_at.replace(second=0, microsecond=0) - _MOMENT)
        highest = until if self.ends_at is None else min(until, self.ends_at)
        for due in self._reaching(after).times(lowest, highest):
            delay = timedelta(0) if is_exact else delay_in_window(self.arn, due, self.window_minutes)
            yield Firing(self.kind, self.arn, due, self.target, due + delay)

    def since_creation(self, after: datetime) -> datetime:
        """The later of that and its creation."""
        return after if self.created_at is None else max(after, self.created_at)

    def is_complete(self, now: datetime) -> bool:
        """Whether it deletes itself, and has nothing to fire after now."""
        if not self.deletes:
            return False
        end = self.ends_at
        if isinstance(self.expression, expressions.At):
            end = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
        return end is not None and (end <= now or next(self.expression.times(now, end), None) is None)

    def _reaching(self, after: datetime) -> Expression:
        """A rate that counts from its creation is on the same grid before it, for those who jump to the past."""
        rate = self.expression
        if self.starts_at is not None or not isinstance(rate, Rate) or rate.start <= after:
            return rate
        steps = -((after - rate.start) // timedelta(minutes=rate.minutes))
        return replace(rate, start=rate.start - steps * timedelta(minutes=rate.minutes))


class Sources:
    """clients: of boto3, by service. What was read of a schedule is kept until the list says that it has changed."""

    def __init__(self, clients: dict[str, Any]) -> None:
        self._scheduler = clients["scheduler"]
        self._events = clients["events"]
        self._known: dict[str, tuple[object, Source | None]] = {}

    def schedules(self) -> list[Source]:
        """The enabled schedules of all groups."""
        known: dict[str, tuple[object, Source | None]] = {}
        for page in self._scheduler.get_paginator("list_schedules").paginate(PaginationConfig={"PageSize": 100}):
            for summary in page["Schedules"]:
                if summary["State"] == "ENABLED":
                    arn, mark = summary["Arn"], (summary["CreationDate"], summary["LastModificationDate"])
                    found = self._known.get(arn)
                    known[arn] = found if found and found[0] == mark else (mark, self._read(summary))
        self._known = known
        return [source for _, source in known.values() if source is not None]

    def rules(self) -> list[Source]:
        """The enabled rules with a schedule; EventBridge has them on the default bus alone."""
        found: list[Source] = []
        for page in self._events.get_paginator("list_rules").paginate():
            for rule in page["Rules"]:
                if rule.get("ScheduleExpression") and rule["State"] != "DISABLED":
                    found += self._read_rule(rule)
        return found

    def delete(self, arn: str) -> None:
        """A schedule that has nothing left to fire."""
        group, name = arn.split("/")[1:]
        try:
            self._scheduler.delete_schedule(GroupName=group, Name=name)
        except self._scheduler.exceptions.ResourceNotFoundException:
            pass

    def _read(self, summary: dict[str, Any]) -> Source | None:
        try:
            found = self._scheduler.get_schedule(GroupName=summary["GroupName"], Name=summary["Name"])
        except self._scheduler.exceptions.ResourceNotFoundException:
            # Deleted since it was listed.
            return None
        created = found["CreationDate"].astimezone(UTC)
        start, end = (found[key].astimezone(UTC) if found.get(key) else None for key in ("StartDate", "EndDate"))
        text, zone = found["ScheduleExpression"], found.get("ScheduleExpressionTimezone") or "UTC"
        # Without a StartDate a rate begins at once: with the minute that comes.
        parsed = _parse(found["Arn"], text, zone, start or _ceiling(created))
        if parsed is None:
            return None
        is_once = text.startswith("at(")
        return Source(
            kind="schedule",
            arn=found["Arn"],
            expression=parsed,
            target=found["Target"],
            window_minutes=found["FlexibleTimeWindow"].get("MaximumWindowInMinutes", 0),
            # AWS does not look at them for what comes once.
            starts_at=None if is_once else start,
            ends_at=None if is_once else end,
            created_at=created,
            deletes=found.get("ActionAfterCompletion") == "DELETE",
        )

    def _read_rule(self, rule: dict[str, Any]) -> Iterator[Source]:
        # AWS counts a rule's rate from its creation, which its API does not tell.
        parsed = _parse(rule["Arn"], rule["ScheduleExpression"], "UTC", _EPOCH)
        if parsed is None:
            return
        for page in self._events.get_paginator("list_targets_by_rule").paginate(Rule=rule["Name"]):
            for target in page["Targets"]:
                yield Source("rule", rule["Arn"], parsed, target)


def _parse(arn: str, text: str, zone: str, start: datetime) -> Expression | None:
    try:
        return expressions.parse(text, zone, start)
    except ScheduleError as error:
        log.warning("%s never fires: %s", arn, error)
        return None


def _ceiling(moment: datetime) -> datetime:
    whole = moment.replace(second=0, microsecond=0)
    return whole if whole == moment else whole + MINUTE
