"""Unique runs: one at a time of a key, whoever asks for it at the same moment."""

from __future__ import annotations

import datetime

from django.db.models import Exists, OuterRef
from django.utils import timezone

from django_app.ledger.models import Run, UniqueRun
from django_app.ledger.states import FINAL


def reserve(key: str, run_id: str, seconds: float | None) -> str:
    """Take a key for a run; the run that holds it: run_id itself, or one that was enqueued before.

    seconds: that the key is held at least, however soon the run ends; None: until it ends.
    Call it in the transaction that records the run. Another that reserves the same key waits for its end.
    """
    now = timezone.now()
    until = None if seconds is None else now + datetime.timedelta(seconds=seconds)
    while True:
        UniqueRun.objects.bulk_create([UniqueRun(key=key, run_id=run_id, until=until)], ignore_conflicts=True)
        held = UniqueRun.objects.select_for_update().filter(key=key).first()
        if held is None:  # it was given up in between
            continue
        if held.run_id == run_id:
            return run_id
        if _is_free(held, now):
            held.run_id, held.until = run_id, until
            held.save(update_fields=["run_id", "until"])
            return run_id
        return held.run_id


def _is_free(held: UniqueRun, now: datetime.datetime) -> bool:
    if held.until is not None and held.until > now:
        return False
    run = Run.objects.filter(pk=held.run_id).values_list("state", flat=True).first()
    return run is None or run in FINAL


def forget(before: datetime.datetime, most: int) -> int:
    """Delete keys whose time is over and whose run has ended, or is forgotten; how many."""
    open_run = Run.objects.filter(pk=OuterRef("run_id")).exclude(state__in=FINAL)
    over = UniqueRun.objects.filter(~Exists(open_run), until__lt=before)
    # Asked again when it is deleted: another run may have taken the key.
    return over.filter(pk__in=list(over.values_list("pk", flat=True)[:most])).delete()[0]
