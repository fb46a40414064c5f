"""Chords and saved groups."""

from __future__ import annotations

from django.db import models


class Chord(models.Model):
    """A chord whose header is at work. Its row is the lock under which parts are counted.

    size: parts that are awaited; None until all are enqueued. done: parts that have returned.
    header: the header's result as Celery nests it, JSON; "" where it is a plain list of tasks.
    finished_at: when the callback was enqueued, or failed.
    """

    group_id = models.CharField(primary_key=True, max_length=255)
    size = models.PositiveIntegerField(null=True)
    done = models.PositiveIntegerField(default=0)
    header = models.TextField(blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (models.Index(fields=["created_at"], name="chord_age"),)

    def __str__(self) -> str:
        return self.group_id


class ChordPart(models.Model):
    """A part that has returned, counted by its id and so never twice.

    result: (state, result) encoded as the result backend has it.
    """

    chord = models.ForeignKey(Chord, on_delete=models.CASCADE, db_index=False)
    part_id = models.CharField(max_length=255)
    position = models.IntegerField(null=True)
    result = models.TextField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["chord", "part_id"], name="chord_part"),)

    def __str__(self) -> str:
        return f"{self.chord_id} {self.part_id}"


class SavedGroup(models.Model):
    """A GroupResult that was saved to be restored. result: as Celery's tuple, JSON."""

    group_id = models.CharField(primary_key=True, max_length=255)
    result = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=["created_at"], name="saved_group_age"),)

    def __str__(self) -> str:
        return self.group_id
