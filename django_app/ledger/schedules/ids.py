"""The ids of a schedule's runs. Pure.

One due time has one id, so what fires twice is one run: `nightly@2026-11-30T07:00:00Z`.
"""

from __future__ import annotations

import datetime
from enum import StrEnum

#: As EventBridge writes <aws.scheduler.scheduled-time>.
FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_NOW, _BACKFILL = "now-", "backfill-"


class Kind(StrEnum):
    """What asked for a run."""

    DUE = "due"
    NOW = "now"
    BACKFILL = "backfill"


def due(name: str, time: datetime.datetime) -> str:
    """The id of the run of a due time."""
    return f"{name}@{time.astimezone(datetime.UTC).strftime(FORMAT)}"


def now(name: str, token: str) -> str:
    """The id of a run that somebody wants at once. token: tells it from others."""
    return f"{name}@{_NOW}{token}"


def backfill(name: str, time: datetime.datetime, token: str) -> str:
    """The id of a past due time's run that is made up for. token: of the backfill that it belongs to."""
    return f"{name}@{_BACKFILL}{token}-{time.astimezone(datetime.UTC).strftime(FORMAT)}"


def kind_of(run_id: str, name: str) -> Kind | None:
    """What asked for a run; None for one that is only linked to the schedule, such as the retry of a run."""
    schedule, at, rest = run_id.rpartition("@")
    if not at or schedule != name:
        return None
    if rest.startswith(_NOW):
        return Kind.NOW
    if rest.startswith(_BACKFILL):
        return Kind.BACKFILL
    try:
        datetime.datetime.strptime(rest, FORMAT)  # noqa: DTZ007 - only whether it is one
    except ValueError:
        return None
    return Kind.DUE
