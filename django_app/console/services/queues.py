"""Holding queues and tasks back."""

from __future__ import annotations

import datetime

from celery import current_app

from django_app.console import audit
from django_app.console.errors import InvalidError, RefusalError
from django_app.console.filters import nearest
from django_app.console.services.acting import Actor, Done
from django_app.ledger import parking
from django_app.ledger.models import Pause
from tasks.topology import TOPOLOGY

KINDS = ("queue", "task")


def pause(actor: Actor, kind: str, name: str, reason: str) -> Done:
    """Begin nothing of a queue, or of a task, any more. What is at work goes on."""
    _check(kind, name)
    if not parking.pause(f"{kind}:{name}", actor.name, reason):
        there = Pause.objects.filter(key=f"{kind}:{name}").first()
        raise RefusalError(kind, name, f"it is already paused{_told(there)}", "Resume it first to pause it anew.")
    return Done(f"Nothing of {kind} {name} is begun until it is resumed.", {"reason": reason})


def resume(actor: Actor, kind: str, name: str, seen: str = "") -> Done:
    """End a pause. seen: when the pause that was looked at began, as ISO 8601; "": whichever there is."""
    there = Pause.objects.select_for_update().filter(key=f"{kind}:{name}").first()
    if there is None:
        _check(kind, name)
        raise _not_paused(kind, name)
    if seen and _time(seen) != there.created_at:
        raise RefusalError(
            kind,
            name,
            f"the pause that you looked at is over, and it is paused anew{_told(there)}",
            "Look again, then decide.",
        )
    if not parking.resume(there.key):
        raise _not_paused(kind, name)
    return Done(
        f"{kind.capitalize()} {name} is resumed. What waited is sent within a minute.",
        {"paused_by": there.by, "paused_at": there.created_at.isoformat(), "reason": there.reason},
    )


def _not_paused(kind: str, name: str) -> RefusalError:
    entry = audit.last("resume", f"{kind} {name}")
    rule = f"it was already resumed{audit.told(entry)}" if entry is not None else "it is not paused"
    return RefusalError(kind, name, rule, "Look at the list again.")


def _check(kind: str, name: str) -> None:
    if kind == "queue" and name not in TOPOLOGY.queues:
        raise InvalidError(
            "queue", name, "it is not declared in tasks/topology.json", nearest(name, list(TOPOLOGY.queues))
        )
    if kind == "task":
        if name not in current_app.tasks:
            current_app.loader.import_default_modules()
        if name not in current_app.tasks:
            raise InvalidError(
                "task", name, "this release has none of that name", nearest(name, sorted(current_app.tasks))
            )


def _told(pause: Pause | None) -> str:
    if pause is None:
        return ""
    whom = f" by {pause.by}" if pause.by else ""
    why = f" ({pause.reason})" if pause.reason else ""
    return f"{whom} since {pause.created_at:%Y-%m-%d %H:%M:%S} UTC{why}"


def _time(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError("seen", text, "it is no time of ISO 8601", "Copy it from the pause.") from None
