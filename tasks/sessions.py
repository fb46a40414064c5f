"""Forget sessions that have expired, which Django itself never does. CELERY_BEAT_SCHEDULE runs it each night."""

from __future__ import annotations

from django.core.management import call_command

from tasks.celery import app
from tasks.runtime.task import Task


@app.task(base=Task)
def clear_expired_sessions() -> None:
    """Delete them. Repeating it deletes what has expired since."""
    call_command("clearsessions")
