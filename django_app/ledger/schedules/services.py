"""What people do with schedules beside editing them, which is the model's save() and delete()."""

from __future__ import annotations

import structlog
from django.db import transaction
from django.utils import timezone

from django_app.ledger.models import Schedule
from django_app.ledger.schedules import due
from django_app.ledger.schedules.admission import locked, put_on_hold

log = structlog.get_logger(__name__)


def pause(schedule: Schedule, by: str, reason: str = "") -> bool:
    """Let nothing be due any more; False where it is paused already. Due times meanwhile are recorded as skipped."""
    with transaction.atomic():
        current = locked(schedule.name)
        if current is None or current.is_paused:
            return False
        put_on_hold(current, by, reason, timezone.now())
        current.tell_eventbridge()
        log.info("schedule_paused", schedule=current.name, by=by, reason=reason)
        return True


def resume(schedule: Schedule, by: str = "") -> bool:
    """End a pause; False where there is none. What was due meanwhile is not made up for: backfill does that."""
    with transaction.atomic():
        current = locked(schedule.name)
        if current is None or not current.is_paused:
            return False
        now = timezone.now()
        # While it is known that it was paused.
        due.account_for_pause(current, now)
        goes_on = {"paused_at": None, "paused_by": "", "pause_reason": "", "resumed_at": now}
        Schedule.objects.filter(pk=current.pk).update(**goes_on, changed_at=now, synced_at=None)
        current.tell_eventbridge()
        log.info("schedule_resumed", schedule=current.name, by=by)
        return True
