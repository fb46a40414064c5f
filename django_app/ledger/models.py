"""The record of every run: what was asked for, and where it stands."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from django_app.ledger.states import State


class Run(models.Model):
    """One task id's life.

    id: Celery's task id.
    message: the finished message as JSON, see tasks.runtime.publishing; "" once SQS has it.
    not_before: the task's eta; the message is published in its last 15 minutes. None: at once.
    publish_claimed_until: until then somebody is publishing it, and nobody else need try.
    """

    id = models.CharField(primary_key=True, max_length=255)
    task = models.CharField(max_length=255)
    queue = models.CharField(max_length=80)
    state = models.CharField(max_length=10, choices=[(each.value, each.value) for each in State], default=State.PENDING)
    message = models.TextField(blank=True)
    priority = models.SmallIntegerField(null=True)
    not_before = models.DateTimeField(null=True)
    parent_id = models.CharField(max_length=255, blank=True)
    root_id = models.CharField(max_length=255, blank=True)
    group_id = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField()
    publish_claimed_until = models.DateTimeField()
    published_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            # What is still to be published is few among many.
            models.Index(fields=["publish_claimed_until"], name="run_pending", condition=Q(state=State.PENDING)),
            models.Index(fields=["published_at"], name="run_published"),
            models.Index(fields=["root_id"], name="run_root"),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.pk}"
