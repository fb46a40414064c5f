"""Whether a schedule's run may begin when its message has come. Pure: the facts in, a ruling out."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from django_app.ledger.schedules.ids import Kind

#: How long EventBridge, SQS and a worker that has to start first may take before a due time counts as missed.
LATE_AFTER = datetime.timedelta(minutes=5)
_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Ruling(StrEnum):
    """What is to be done with the run."""

    BEGIN = "begin"
    SKIP = "skip"
    WAIT = "wait"  # for the end of an earlier one
    REPLACE = "replace"  # wait, and the earlier ones are to end


@dataclass(frozen=True)
class Facts:
    """A schedule as it stands, and the run that is to begin.

    exists: whether the schedule is still there; if not, what is said of it means nothing.
    scheduled_for: its due time; None for one that somebody asked for. is_due_time: whether the timing knows that time.
    changed_at: of the schedule. arrived_at: when the run was first seen.
    was_admitted: whether these rules have let it wait before.
    open_runs: earlier ones that have begun and not ended. waiting_runs: those that wait for the end of one.
    """

    exists: bool
    kind: Kind
    scheduled_for: datetime.datetime | None = None
    is_due_time: bool = True
    changed_at: datetime.datetime = _LONG_AGO
    arrived_at: datetime.datetime = _LONG_AGO
    was_admitted: bool = False
    ends_at: datetime.datetime | None = None
    paused_by: str | None = None
    pause_reason: str = ""
    overlap: str = "skip"
    catch_up: datetime.timedelta = datetime.timedelta(hours=1)
    jitter: datetime.timedelta = datetime.timedelta()
    open_runs: int = 0
    waiting_runs: int = 0


def rule(facts: Facts) -> tuple[Ruling, str]:
    """The ruling, and why where it does not begin."""
    if not facts.exists:
        return Ruling.SKIP, "its schedule has been deleted"
    if facts.kind is Kind.DUE and not facts.was_admitted:
        reason = _why_not_due(facts)
        if reason:
            return Ruling.SKIP, reason
    return _overlap(facts)


def paused(by: str, reason: str) -> str:
    """Why nothing is due."""
    return f"the schedule is paused{f' by {by}' if by else ''}{f': {reason}' if reason else ''}"


def missed(catch_up: datetime.timedelta) -> str:
    """Why a due time of which nothing was heard is not made up for."""
    return f"nothing was heard of it, and its catch-up window of {span(catch_up)} is over"


def span(time: datetime.timedelta) -> str:
    """A length of time in its largest whole unit: "2 hours", "90 minutes"."""
    seconds = int(time.total_seconds())
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}{'s' if seconds != size else ''}"
    return f"{seconds} seconds"


def _why_not_due(facts: Facts) -> str:
    due = facts.scheduled_for
    if due is None:
        return ""
    if facts.paused_by is not None:
        return paused(facts.paused_by, facts.pause_reason)
    if facts.ends_at is not None and due > facts.ends_at:
        return f"the schedule ended at {facts.ends_at:%Y-%m-%d %H:%M} UTC"
    if not facts.is_due_time and due >= facts.changed_at:
        return (
            f"the schedule was changed at {facts.changed_at:%Y-%m-%d %H:%M} UTC, and is not due at this time any more"
        )
    late = facts.arrived_at - due
    if late > facts.catch_up + facts.jitter:
        # Without fractions, which nobody wants to know of hours.
        by = span(datetime.timedelta(minutes=late // datetime.timedelta(minutes=1)))
        return f"it came {by} late, and the catch-up window is {span(facts.catch_up)}"
    return ""


def _overlap(facts: Facts) -> tuple[Ruling, str]:
    if not facts.open_runs or facts.overlap == "allow":
        return Ruling.BEGIN, ""
    waits = "an earlier run has not ended"
    if facts.was_admitted or facts.kind is Kind.BACKFILL:
        # Somebody wants each run of a backfill: one after another.
        return Ruling.WAIT, waits
    if facts.overlap == "cancel":
        return Ruling.REPLACE, "an earlier run is told to end"
    if facts.overlap == "queue" and not facts.waiting_runs:
        return Ruling.WAIT, waits
    return Ruling.SKIP, f"{waits}, and another waits for its end" if facts.overlap == "queue" else waits
