"""Writing down what was done, by whom, to what. Call it in the transaction that does it."""

from __future__ import annotations

import datetime
from typing import Any

from django.utils import timezone

from django_app.console.models import AuditEntry

Outcome = AuditEntry.Outcome
_LONGEST_TARGET = 300


def write(
    actor: str,
    action: str,
    target: str,
    detail: dict[str, Any] | None = None,
    outcome: str = Outcome.DONE,
) -> AuditEntry:
    """detail: without secrets, and JSON."""
    return AuditEntry.objects.create(
        at=timezone.now(),
        actor=actor[:150],
        action=action,
        target=clean(target)[:_LONGEST_TARGET],
        detail=_clean(detail or {}),
        outcome=outcome,
    )


def clean(text: str) -> str:
    """What every database can keep."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value


def last(action: str | tuple[str, ...], target: str, since: datetime.datetime | None = None) -> AuditEntry | None:
    """The newest entry on something that was done to a target; none that is older than that."""
    actions = (action,) if isinstance(action, str) else action
    done = AuditEntry.objects.filter(target=clean(target)[:_LONGEST_TARGET]).order_by("-id")
    # A target has few entries among the newest; not all of its history is read.
    for entry in done[:50]:
        if since is not None and entry.at < since:
            return None
        if entry.action in actions and entry.outcome == Outcome.DONE:
            return entry
    return None


def told(entry: AuditEntry | None) -> str:
    """ "by ada at 12:30:00 UTC", with a space before it; "" where nobody knows."""
    return f" by {entry.actor} at {entry.at:%Y-%m-%d %H:%M:%S} UTC" if entry is not None else ""
