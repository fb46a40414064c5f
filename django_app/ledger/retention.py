"""Deleting what nobody needs any more, in small batches. Runs and unique keys have functions beside what makes them."""

from __future__ import annotations

import datetime

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import Exists, OuterRef

from django_app.ledger.models import Chord, ChordPart, OnceMark, Run, SavedGroup
from django_app.ledger.states import FINAL


def forget_marks(before: datetime.datetime, most: int) -> int:
    """Delete marks of `once` that were made before a time; how many.

    Those of a run that has not ended stay: its next attempt must still find them.
    """
    unended = Run.objects.filter(pk=OuterRef("run_id")).exclude(state__in=FINAL)
    old = OnceMark.objects.filter(~Exists(unended), created_at__lt=before).order_by("created_at")
    keys = list(old.values_list("pk", flat=True)[:most])
    if keys:
        OnceMark.objects.filter(pk__in=keys, created_at__lt=before)._raw_delete(DEFAULT_DB_ALIAS)
    return len(keys)


def forget_chords(before: datetime.datetime, most: int) -> int:
    """Delete chords that began before a time and have finished, with their parts; how many."""
    old = Chord.objects.filter(created_at__lt=before, finished_at__isnull=False).order_by("created_at")
    ids = list(old.values_list("pk", flat=True)[:most])
    if ids:
        with transaction.atomic():
            # Locked and looked at again: one that is applied once more begins anew.
            chords = Chord.objects.filter(pk__in=ids, finished_at__isnull=False).select_for_update()
            ids = list(chords.values_list("pk", flat=True))
            ChordPart.objects.filter(chord_id__in=ids)._raw_delete(DEFAULT_DB_ALIAS)
            Chord.objects.filter(pk__in=ids)._raw_delete(DEFAULT_DB_ALIAS)
    return len(ids)


def forget_groups(before: datetime.datetime, most: int) -> int:
    """Delete groups that were saved before a time; how many."""
    old = SavedGroup.objects.filter(created_at__lt=before).order_by("created_at")
    ids = list(old.values_list("pk", flat=True)[:most])
    if ids:
        SavedGroup.objects.filter(pk__in=ids, created_at__lt=before)._raw_delete(DEFAULT_DB_ALIAS)
    return len(ids)
