"""Runs, their attempts, and what keeps a run or its effects single."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from django_app.ledger.states import FINAL, Outcome, State

_OPEN_CLAIM = Q(state=State.RUNNING)


class Run(models.Model):
    """One task id's life, and the attempt that is under way.

    id: Celery's task id.
    message: the finished message, sealed, see ledger.sealing and tasks.runtime.publishing. Kept for retries.
    arguments: what people may see of them: redacted, cut to size, JSON.
    not_before: the task's eta; the message is published in its last 15 minutes. None: at once.
    publish_claimed_until: until then somebody is publishing it, or it is not to be published yet: nobody else need try.
    retries, replacements: how often its task sent it again, or another signature in its place.
    schedule: the name of the schedule that it belongs to. scheduled_for: the due time that it is for; None: somebody
    asked for it. admitted_at: when the schedule's rules first let it begin, or wait, or not.
    limit_key: runs of one key share a limit of how many run at once, see ledger.parking.
    limit_at_once: that limit, as it was when the run was enqueued.
    parked_for: why it is waiting.
    attempts: how many have begun, lost ones included. crashes: how many of them were lost.
    holder: names the attempt that may run it; lease_until: until when, unless it is renewed.
    celery_state: what the task itself set by update_state(), with its meta in `result`; else "".
    result: encoded as the result backend has it, or a reference to S3, see ledger.payloads.
    fingerprint: of the last error: the same for the same error at the same place.
    sequence: grows with every change that those who watch are told of. watched_until: somebody watches, see
    ledger.watching.
    """

    id = models.CharField(primary_key=True, max_length=255)
    task = models.CharField(max_length=255)
    queue = models.CharField(max_length=80)
    state = models.CharField(max_length=10, choices=[(each.value, each.value) for each in State], default=State.PENDING)
    message = models.TextField(blank=True)
    arguments = models.TextField(blank=True)
    priority = models.SmallIntegerField(null=True)
    not_before = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    retries = models.PositiveIntegerField(default=0)
    replacements = models.PositiveIntegerField(default=0)

    parent_id = models.CharField(max_length=255, blank=True)
    root_id = models.CharField(max_length=255, blank=True)
    group_id = models.CharField(max_length=255, blank=True)
    is_chord_part = models.BooleanField(default=False)
    retry_of = models.CharField(max_length=255, blank=True)
    schedule = models.CharField(max_length=255, blank=True)
    scheduled_for = models.DateTimeField(null=True)
    admitted_at = models.DateTimeField(null=True)
    tenant = models.CharField(max_length=100, blank=True)
    requested_by = models.CharField(max_length=150, blank=True)
    unique_key = models.CharField(max_length=255, blank=True)
    stamps = models.JSONField(default=dict, blank=True)

    limit_key = models.CharField(max_length=255, blank=True)
    limit_at_once = models.PositiveIntegerField(null=True)
    parked_for = models.CharField(max_length=20, blank=True)

    created_at = models.DateTimeField()
    publish_claimed_until = models.DateTimeField()
    published_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    attempts = models.PositiveIntegerField(default=0)
    crashes = models.PositiveIntegerField(default=0)
    holder = models.CharField(max_length=64, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    receives = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)

    celery_state = models.CharField(max_length=50, blank=True)
    result = models.TextField(blank=True)
    children = models.TextField(blank=True)
    error = models.CharField(max_length=500, blank=True)
    fingerprint = models.CharField(max_length=16, blank=True)

    progress_done = models.BigIntegerField(null=True)
    progress_total = models.BigIntegerField(null=True)
    progress_note = models.CharField(max_length=200, blank=True)
    # Named as it was when it counted progress alone: workers of an earlier release go on while this one is deployed.
    sequence = models.PositiveIntegerField(default=0, db_column="progress_sequence")
    watched_until = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            # What is still to be published is few among many.
            models.Index(fields=["publish_claimed_until"], name="run_pending", condition=Q(state=State.PENDING)),
            models.Index(fields=["lease_until"], name="run_leased", condition=_OPEN_CLAIM),
            models.Index(fields=["limit_key", "created_at"], name="run_limited", condition=~Q(limit_key="")),
            models.Index(fields=["limit_key", "-started_at"], name="run_begun", condition=~Q(limit_key="")),
            models.Index(fields=["queue", "created_at"], name="run_parked", condition=Q(state=State.WAITING)),
            models.Index(fields=["root_id"], name="run_root"),
            models.Index(fields=["group_id"], name="run_group", condition=~Q(group_id="")),
            # What the console lists: newest first, by one or two of these.
            models.Index(fields=["-created_at", "id"], name="run_newest"),
            models.Index(fields=["state", "-created_at"], name="run_by_state"),
            models.Index(fields=["task", "-created_at"], name="run_by_task"),
            models.Index(fields=["queue", "-created_at"], name="run_by_queue"),
            models.Index(fields=["fingerprint", "-created_at"], name="run_by_error", condition=~Q(fingerprint="")),
            models.Index(fields=["tenant", "-created_at"], name="run_by_tenant", condition=~Q(tenant="")),
            models.Index(fields=["schedule", "-created_at"], name="run_by_schedule", condition=~Q(schedule="")),
            models.Index(fields=["worker", "-started_at"], name="run_by_worker", condition=~Q(worker="")),
            models.Index(fields=["finished_at"], name="run_finished", condition=Q(state__in=sorted(FINAL))),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.pk}"

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


class Attempt(models.Model):
    """One execution that has ended; the one under way stands on its run.

    number: counted from 1. receives: how often SQS had delivered the message.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="past_attempts", db_index=False)
    number = models.PositiveIntegerField()
    holder = models.CharField(max_length=64, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    receives = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField()
    outcome = models.CharField(max_length=10, choices=[(each.value, each.value) for each in Outcome])
    error = models.CharField(max_length=500, blank=True)
    traceback = models.TextField(blank=True)
    log_tail = models.TextField(blank=True)

    class Meta:
        indexes = (models.Index(fields=["run", "number"], name="attempt_of_run"),)

    def __str__(self) -> str:
        return f"{self.run_id} #{self.number}"


class UniqueRun(models.Model):
    """The run that holds a unique key: until it ends, and if `until` is set, until then at least."""

    key = models.CharField(primary_key=True, max_length=255)
    run_id = models.CharField(max_length=255)
    until = models.DateTimeField(null=True)

    class Meta:
        indexes = (models.Index(fields=["run_id"], name="unique_of_run"),)

    def __str__(self) -> str:
        return f"{self.key}: {self.run_id}"


class OnceMark(models.Model):
    """Says that a block under `once` is done, and what it gave. Written in the block's own transaction."""

    key = models.CharField(primary_key=True, max_length=255)
    run_id = models.CharField(max_length=255)
    value = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=["created_at"], name="once_age"),)

    def __str__(self) -> str:
        return self.key
