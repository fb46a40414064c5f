"""Structured logs of tasks: one line an outcome, with the request's and the parent task's ids."""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals
from django_structlog.celery.receivers import CeleryReceiver


class WorkerLogStep(bootsteps.Step):
    """Connects django-structlog's receivers of task outcomes in a worker.

    Its own step connects the publishing signals as well, which its app config has done: each line came twice.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        # Signals hold their receivers weakly.
        self.receiver = CeleryReceiver()
        signals.task_prerun.connect(self.receiver.receiver_task_prerun)
        signals.task_retry.connect(self.receiver.receiver_task_retry)
        signals.task_success.connect(self.receiver.receiver_task_success)
        signals.task_failure.connect(self.receiver.receiver_task_failure)
        signals.task_revoked.connect(self.receiver.receiver_task_revoked)
        signals.task_unknown.connect(self.receiver.receiver_task_unknown)
        signals.task_rejected.connect(self.receiver.receiver_task_rejected)
