"""Workers and queues: who is at work, what they are told, what is held back."""

from __future__ import annotations

from django.db import models


class Worker(models.Model):
    """A worker process's last sign of life.

    name: Celery's node name. pool: of the topology, or "". kind: prefork, threads, solo.
    busy: slots at work. load: of the machine, one minute. memory_bytes: of the worker with its children.
    lease_until: lost if it has not been renewed by then.
    """

    name = models.CharField(primary_key=True, max_length=255)
    pool = models.CharField(max_length=80, blank=True)
    kind = models.CharField(max_length=20)
    concurrency = models.PositiveIntegerField()
    queues = models.TextField(blank=True)
    release = models.CharField(max_length=100, blank=True)
    pid = models.PositiveIntegerField()
    state = models.CharField(
        max_length=10, choices=[(each, each) for each in ("running", "draining", "stopped", "lost")], default="running"
    )
    busy = models.PositiveIntegerField(default=0)
    held = models.PositiveIntegerField(default=0)
    processed = models.BigIntegerField(default=0)
    load = models.FloatField(default=0)
    memory_bytes = models.BigIntegerField(default=0)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    lease_until = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=["state", "lease_until"], name="worker_alive"),)

    def __str__(self) -> str:
        return self.name


class Command(models.Model):
    """A remote control command on its way to workers. body: kombu's pidbox message, JSON."""

    body = models.TextField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=["expires_at"], name="command_age"),)

    def __str__(self) -> str:
        return f"command {self.pk}"


class Reply(models.Model):
    """A worker's answer to a command."""

    ticket = models.CharField(max_length=255)
    body = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        indexes = (
            models.Index(fields=["ticket", "id"], name="reply_ticket"),
            models.Index(fields=["created_at"], name="reply_age"),
        )

    def __str__(self) -> str:
        return f"reply to {self.ticket}"


class Revocation(models.Model):
    """What workers must not run. header "": value is a task id; else the stamped header's name, value its value."""

    header = models.CharField(max_length=255, blank=True)
    value = models.CharField(max_length=255)
    by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["header", "value"], name="revoked_once"),)
        indexes = (models.Index(fields=["expires_at"], name="revocation_age"),)

    def __str__(self) -> str:
        return f"{self.header or 'id'}={self.value}"


class Pause(models.Model):
    """A queue or a task of which nothing is begun. key: "queue:<name>" or "task:<name>"."""

    key = models.CharField(primary_key=True, max_length=255)
    by = models.CharField(max_length=150, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.key


class Errand(models.Model):
    """Something that is done from time to time, by whoever finds it due first."""

    name = models.CharField(primary_key=True, max_length=80)
    due_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class QueueSample(models.Model):
    """What a queue held at a moment. oldest_age_seconds: of the oldest published run that nobody has begun."""

    queue = models.CharField(max_length=80)
    at = models.DateTimeField()
    depth = models.PositiveIntegerField(null=True)
    in_flight = models.PositiveIntegerField(null=True)
    delayed = models.PositiveIntegerField(null=True)
    oldest_age_seconds = models.FloatField(null=True)
    dead = models.PositiveIntegerField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["queue", "at"], name="queue_sampled_once"),)
        indexes = (models.Index(fields=["at"], name="sample_age"),)

    def __str__(self) -> str:
        return f"{self.queue} at {self.at:%H:%M}"
