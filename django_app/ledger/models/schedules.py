"""Schedules: periodic work, its rules, and how far its due times have been accounted for."""

from __future__ import annotations

import datetime
import re
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from serverless.scheduler import zones
from serverless.scheduler.errors import ScheduleError, TimingError
from serverless.scheduler.timing import LONGEST_TEXT, Timing, parse

#: A run's id holds the name and what tells the run from others, in 255 characters.
LONGEST_NAME = 150
_NAME = re.compile(r"[^\x00-\x1f\x7f@]+")
_MOST_JITTER_MINUTES = 1440
#: EventBridge gives up on a target after a day.
DAY_SECONDS = 86_400
#: What changes what EventBridge is to do.
_DEFINITION = (
    *("name", "task", "args", "kwargs", "options", "timing", "zone", "jitter_minutes", "ends_at"),
    *("paused_at", "requested_by", "tenant"),
)


class Overlap(models.TextChoices):
    """What becomes of a due run while an earlier one has not ended."""

    SKIP = "skip", "skip the new one"
    QUEUE = "queue", "let one wait for its end"
    ALLOW = "allow", "run both"
    CANCEL = "cancel", "end the earlier one"


class ScheduleSource(models.TextChoices):
    """Who owns it."""

    CODE = "code", "CELERY_BEAT_SCHEDULE"
    PEOPLE = "people", "people"


class Schedule(models.Model):
    """Periodic work: which task is due when, and the rules of its runs.

    args, kwargs: of the task. options: of apply_async: queue, priority, expires, headers.
    timing: "0 8 * * mon" in Celery's order of fields, or "every 90 minutes"; zone: of its times, see
    serverless.scheduler.timing.
    overlap: what becomes of a due run while an earlier one has not ended.
    catch_up_seconds: a run that comes later than this after its due time is skipped.
    jitter_minutes: EventBridge fires at some moment within so many after the due time.
    ends_at: no due time after it. pause_after_failures: so many runs in a row that fail pause it; None: never.
    paused_at, paused_by, pause_reason: since when, by whom and why nothing is due.
    checked_until: each due time up to then has a run, whatever became of it. next_check_at: the first that has not yet
    been accounted for; None: there is none.
    synced_at: since when EventBridge knows this definition; None: not yet, sync_error says why.
    """

    name = models.CharField(
        max_length=LONGEST_NAME,
        unique=True,
        error_messages={"unique": "there is a schedule of this name already. Choose another name."},
    )
    task = models.CharField(max_length=255)
    args = models.JSONField(default=list, blank=True)
    kwargs = models.JSONField(default=dict, blank=True)
    options = models.JSONField(default=dict, blank=True)
    timing = models.CharField(max_length=LONGEST_TEXT)
    zone = models.CharField(max_length=64, default="UTC")
    source = models.CharField(max_length=6, choices=ScheduleSource.choices, default=ScheduleSource.PEOPLE)
    requested_by = models.CharField(max_length=150, blank=True)
    tenant = models.CharField(max_length=100, blank=True)

    overlap = models.CharField(max_length=6, choices=Overlap.choices, default=Overlap.SKIP)
    catch_up_seconds = models.PositiveIntegerField(
        default=3600, validators=[MinValueValidator(60), MaxValueValidator(366 * DAY_SECONDS)]
    )
    jitter_minutes = models.PositiveIntegerField(default=0, validators=[MaxValueValidator(_MOST_JITTER_MINUTES)])
    ends_at = models.DateTimeField(null=True, blank=True)
    pause_after_failures = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )

    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.CharField(max_length=150, blank=True)
    pause_reason = models.CharField(max_length=500, blank=True)
    resumed_at = models.DateTimeField(null=True, blank=True)

    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    checked_until = models.DateTimeField()
    next_check_at = models.DateTimeField(null=True, blank=True)
    synced_at = models.DateTimeField(null=True, blank=True)
    sync_error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("name",)
        indexes = (
            models.Index(fields=["next_check_at"], name="schedule_check"),
            models.Index(fields=["name"], name="schedule_unsynced", condition=models.Q(synced_at=None)),
            models.Index(fields=["requested_by", "name"], name="schedule_owner"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def when(self) -> Timing:
        """Raises ScheduleError where timing or zone is none."""
        return parse(self.timing, self.zone)

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None

    def has_ended(self, now: datetime.datetime) -> bool:
        return self.ends_at is not None and self.ends_at <= now

    def clean(self) -> None:
        """Refuse what could never run. Raises ValidationError, field by field."""
        super().clean()
        faults: dict[str, Any] = {}
        if not _NAME.fullmatch(self.name) or self.name != self.name.strip():
            faults["name"] = (
                f"name {self.name!r}: it becomes part of its runs' ids, so it may hold no @, no control character and "
                "no space at its ends. Choose another."
            )
        try:
            zones.find(self.zone, TimingError)
        except ScheduleError as error:
            faults["zone"] = str(error)
        else:
            try:
                timing = self.when
            except ScheduleError as error:
                faults["timing"] = str(error)
            else:
                self.timing, self.zone = timing.text, timing.zone
        check = import_string(settings.SCHEDULE_CHECKER)
        faults |= {name: fault for name, fault in check(self).items() if name not in faults}
        if faults:
            raise ValidationError(faults)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what could never run, and tell EventBridge after the commit. Raises ValidationError."""
        now = timezone.now()
        if self._state.adding:
            self.created_at = self.changed_at = now
            self.checked_until = self.checked_until or now
        before = None if self._state.adding else type(self).objects.filter(pk=self.pk).values(*_DEFINITION).first()
        self.full_clean()
        if before != {name: getattr(self, name) for name in _DEFINITION}:
            self.changed_at = now
            self.synced_at = None
        self.next_check_at = self.first_check_after(self.checked_until)
        super().save(*args, **kwargs)
        if self.synced_at is None:
            self.tell_eventbridge()
            if before is not None and before["name"] != self.name:
                transaction.on_commit(partial(_tell_eventbridge, before["name"]), robust=True)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, and tell EventBridge after the commit."""
        deleted = super().delete(*args, **kwargs)
        self.tell_eventbridge()
        return deleted

    def tell_eventbridge(self) -> None:
        """After the commit, have EventBridge know what the table then says of it."""
        transaction.on_commit(partial(_tell_eventbridge, self.name), robust=True)

    def expires_at(self, due: datetime.datetime | None) -> datetime.datetime | None:
        """When the run of a due time expires, by the option `expires`; None: never."""
        expires = self.options.get("expires")
        return None if expires is None or due is None else due + datetime.timedelta(seconds=expires)

    def next_due(self, after: datetime.datetime, count: int) -> list[datetime.datetime]:
        """Its next due times, at most so many, up to its end; none while it is paused."""
        return [] if self.is_paused else self._due_after(after, count)

    def first_check_after(self, after: datetime.datetime) -> datetime.datetime | None:
        """When its first due time after another is to be looked at: after the window in which EventBridge may fire."""
        window = datetime.timedelta(minutes=self.jitter_minutes)
        return next((due + window for due in self._due_after(after, 1)), None)

    def _due_after(self, after: datetime.datetime, count: int) -> list[datetime.datetime]:
        return [due for due in self.when.next(after, count) if self.ends_at is None or due <= self.ends_at]


def _tell_eventbridge(name: str) -> None:
    import_string(settings.SCHEDULE_SYNCER)(name)
