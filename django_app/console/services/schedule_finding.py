"""Finding the schedule that somebody means, and reading the times that they give."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

from django_app.console import audit
from django_app.console.access import Access, visible_schedules
from django_app.console.errors import InvalidError, NotVisibleError, RefusalError
from django_app.console.models import AuditEntry
from django_app.console.roles import Role
from django_app.ledger.models import Schedule


def target(name: str) -> str:
    """What the audit log calls a schedule."""
    return f"schedule {name}"


def is_known(access: Access, name: str) -> bool:
    """Whether somebody may know of it: they see it, or saw it until it was deleted."""
    return visible_schedules(access).filter(name=name).exists() or _deletion(access, name) is not None


def _deletion(access: Access, name: str) -> AuditEntry | None:
    """The entry on its end, for those who saw it before."""
    if not access.may(Role.VIEWER):
        return None
    entry = audit.last("delete-schedule", target(name))
    if entry is None or (access.tenant is not None and entry.detail.get("tenant") != access.tenant):
        return None
    return entry


def locked(access: Access, name: str) -> Schedule:
    """A schedule that they may see; nobody else changes it until the transaction ends."""
    schedule = visible_schedules(access).select_for_update().filter(name=name).first()
    if schedule is None:
        raise gone(access, name)
    return schedule


def gone(access: Access, name: str) -> RefusalError | NotVisibleError:
    """Why there is none of that name, as far as they may know."""
    entry = _deletion(access, name)
    if entry is None:
        return NotVisibleError()
    return RefusalError("schedule", name, f"it was deleted{audit.told(entry)}", "Make it anew if it is still needed.")


def time_of(field: str, text: str, zone: str) -> datetime.datetime:
    """A time of ISO 8601; in that zone where it names none. Raises InvalidError.

    zone: where there is none of that name, UTC: it is refused on its own account.
    """
    found = moment(field, text)
    try:
        if found.tzinfo is None:
            found = found.replace(tzinfo=_zone(zone))
        return found.astimezone(datetime.UTC)
    except OverflowError:
        raise InvalidError(field, text, "UTC has no such year", "Correct it.") from None


def _zone(name: str) -> datetime.tzinfo:
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        return datetime.UTC


def moment(field: str, text: str) -> datetime.datetime:
    """A time of ISO 8601 as it is given. Raises InvalidError."""
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(field, text, "it is no time of ISO 8601", "Write 2026-01-31T08:00.") from None
