"""Bases of tasks: what each has, and one that tries again what goes wrong for a while."""

from __future__ import annotations

from typing import Any

import structlog
from celery.contrib.django.task import DjangoTask
from django.db import InterfaceError, OperationalError, transaction

from serverless import aws

log = structlog.get_logger(__name__)


class RunTask(DjangoTask):
    """The base of every task that names no other."""

    abstract = True

    def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """Report how far the run is: done of total, and a word on it. Cheap to call often, see tasks.runtime.progress.

        Raises ProgressError for what is no progress; the database being away fails no task.
        """
        from tasks.runtime import progress

        progress.report(self, done, total, note)

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Celery's own, in one transaction: a chord must not await a part that was never enqueued."""
        with transaction.atomic():
            return super().add_to_chord(sig, lazy)  # type: ignore[call-overload]


class Task(RunTask):
    """Retries errors of the database and of AWS that pass; all else fails at once.

    Pauses double from a second to five minutes, each drawn at random below that (full jitter).
    """

    abstract = True
    max_retries = 8
    autoretry_for = (OperationalError, InterfaceError, *aws.ERRORS)
    retry_backoff = True
    retry_backoff_max = 300
    retry_jitter = True

    def retry(self, *args: Any, **options: Any) -> Any:
        """Celery's own, but what AWS refuses for good is not asked again."""
        error = options.get("exc")
        if isinstance(error, aws.ERRORS) and not aws.is_passing(error):
            raise error
        return super().retry(*args, **options)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        log.error("task_failed", task=self.name, task_id=task_id, error=type(exc).__name__)
