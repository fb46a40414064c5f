"""Records of uploaded files, the pieces they are worked on in, and their reports."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.urls import reverse


class DatasetQuerySet(models.QuerySet["Dataset"]):
    def owned_by(self, user: AbstractBaseUser | AnonymousUser) -> DatasetQuerySet:
        """Only this user's own: the one place that says whose dataset a person may see."""
        return self.filter(owner_id=user.pk)

    def unfinished(self) -> DatasetQuerySet:
        return self.filter(state__in=Dataset.WORKING_STATES)


class Dataset(models.Model):
    """One CSV file and what was found in it.

    generation: counts the times that work on it was started; work of an earlier generation has no say any more.
    stalls: how often work that was begun stopped without a result since a person last started it.
    problem: why it failed, in words for its owner; "" unless the state is failed.
    layout: how the file is read: {"columns": names, "separator": character, "related": column positions}.
    profile: the finished statistics as JSON, see profile.summary.ProfileDict; None until they are complete.
    mail_schedule: name of the schedule by which its report is mailed again and again, see subscriptions; "": none.
    touched_at: the last sign of progress, by which stalled work is recognised. sequence: grows with each of them.
    """

    class State(models.TextChoices):
        UPLOADING = "uploading", "Waiting for the upload"
        QUEUED = "queued", "Queued"
        SPLITTING = "splitting", "Finding record boundaries"
        PROFILING = "profiling", "Computing statistics"
        REPORTING = "reporting", "Writing the report"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"

    WORKING_STATES = (State.QUEUED, State.SPLITTING, State.PROFILING, State.REPORTING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=255, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.UPLOADING)
    problem = models.TextField(blank=True)
    generation = models.PositiveIntegerField(default=0)
    stalls = models.PositiveIntegerField(default=0)
    size_bytes = models.BigIntegerField(null=True)
    etag = models.CharField(max_length=80, blank=True)
    layout = models.JSONField(null=True)
    profile = models.JSONField(null=True)
    mail_schedule = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    upload_expires_at = models.DateTimeField()
    touched_at = models.DateTimeField(auto_now=True)
    # With a default of the database's own: an earlier release inserts while this one is deployed.
    sequence = models.PositiveIntegerField(default=0, db_default=0)

    objects = DatasetQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)
        indexes = (
            models.Index(fields=["owner", "-created_at"], name="dataset_owner_created"),
            models.Index(fields=["state", "touched_at"], name="dataset_state_touched"),
        )

    def __str__(self) -> str:
        return self.name or "Unnamed dataset"

    def get_absolute_url(self) -> str:
        return reverse("datasets:detail", args=[self.pk])

    @property
    def upload_prefix(self) -> str:
        return f"uploads/{self.owner_id}/{self.pk}/"

    @property
    def upload_key(self) -> str:
        return f"{self.upload_prefix}data.csv"

    @property
    def work_prefix(self) -> str:
        return f"work/{self.owner_id}/{self.pk}/"

    @property
    def report_prefix(self) -> str:
        return f"reports/{self.owner_id}/{self.pk}/"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Every place in the bucket that holds something of this dataset."""
        return self.upload_prefix, self.work_prefix, self.report_prefix

    @property
    def is_working(self) -> bool:
        return self.state in self.WORKING_STATES


class Chunk(models.Model):
    """A run of whole records, worked on by one task.

    start, stop: byte range in the file, stop excluded. first_line: number of its first line in the file, from 1.
    """

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        DONE = "done", "Done"

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="chunks")
    index = models.PositiveIntegerField()
    start = models.BigIntegerField()
    stop = models.BigIntegerField()
    first_line = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    rows = models.BigIntegerField(null=True)

    class Meta:
        ordering = ("index",)
        constraints = (models.UniqueConstraint(fields=["dataset", "index"], name="chunk_once"),)

    def __str__(self) -> str:
        return f"{self.dataset} #{self.index}"

    @property
    def summary_key(self) -> str:
        return f"{self.dataset.work_prefix}{self.dataset.generation}/{self.index:06d}.summary"


class Removal(models.Model):
    """Objects of a deleted dataset that are to be removed (again) at a time when none can arrive any more."""

    prefixes = models.JSONField()
    due_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"Removal due {self.due_at:%Y-%m-%d %H:%M}"


class Report(models.Model):
    """The pages made from one dataset's profile, and whether they were mailed.

    mail_state: a report's mail is sent at most once by itself. "sending" is written before SES is asked; if the
    worker dies in between, nobody knows whether it went out, and only its owner may ask for another.
    """

    class MailState(models.TextChoices):
        WAITING = "waiting", "Not mailed yet"
        SENDING = "sending", "Being mailed"
        SENT = "sent", "Mailed"
        FAILED = "failed", "Could not be mailed"

    dataset = models.OneToOneField(Dataset, on_delete=models.CASCADE, related_name="report")
    generation = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    built_at = models.DateTimeField(null=True)
    mail_state = models.CharField(max_length=8, choices=MailState, default=MailState.WAITING)
    mail_problem = models.TextField(blank=True)
    mail_claimed_at = models.DateTimeField(null=True)
    mailed_at = models.DateTimeField(null=True)
    mailed_to = models.EmailField(blank=True)
    message_id = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return f"Report on {self.dataset}"

    @property
    def html_key(self) -> str:
        return f"{self.dataset.report_prefix}{self.generation}/report.html"

    @property
    def pdf_key(self) -> str:
        return f"{self.dataset.report_prefix}{self.generation}/report.pdf"
