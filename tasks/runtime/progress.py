"""How far a run is: saved, then told; at most twice a second, the first and the last always; never backwards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Q
from django.dispatch import Signal

from django_app.ledger import watching
from django_app.ledger.models import Run
from tasks.runtime import attempts

log = structlog.get_logger(__name__)

_EVERY_SECONDS = 0.5
_LONGEST_NOTE = 200

#: Sent when progress has been saved, with run_id, done, total and note. A receiver that raises changes nothing.
progressed = Signal()


class ProgressError(ValueError):
    """A progress that is none."""


@dataclass(frozen=True)
class Progress:
    """So much of so much. total: None, unknown."""

    done: int
    total: int | None
    note: str


def report(task: Any, done: int, total: int | None, note: str) -> None:
    """Report for the run that the task is at work on; nothing happens for a call outside of a recorded run.

    Within a transaction it is saved after the commit. Raises ProgressError; what the database raises it does not raise.
    """
    for name, value in (("done", done), ("total", total)):
        if value is None and name == "total":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ProgressError(f"task {task.name}: progress {name}={value!r} must be a whole number from 0 on.")
    if total is not None and done > total:
        raise ProgressError(f"task {task.name}: progress done={done} exceeds total={total}.")
    attempt = attempts.of(task.request.id or "")
    if attempt is None:
        return
    progress = Progress(done, total, attempts.storable(note)[:_LONGEST_NOTE])
    now = time.monotonic()
    is_last = total is not None and done == total
    if not is_last and now - attempt.progress_saved_at < _EVERY_SECONDS:
        attempt.progress_kept = progress
        return
    attempt.progress_saved_at, attempt.progress_kept = now, None
    run_id = attempt.run_id
    if connection.in_atomic_block:
        transaction.on_commit(lambda: _save(run_id, progress), robust=True)
    else:
        _save(run_id, progress)


def save_kept(attempt: attempts.Current) -> None:
    """Save what was reported last and left for later."""
    progress, attempt.progress_kept = attempt.progress_kept, None
    if progress is not None:
        _save(attempt.run_id, progress)


def _save(run_id: str, progress: Progress) -> None:
    further = Q(progress_done=None) | Q(progress_done__lte=progress.done)
    try:
        saved = watching.update(
            Run.objects.filter(further, pk=run_id),
            progress_done=progress.done,
            progress_total=progress.total,
            progress_note=progress.note,
        )
    except (DatabaseError, InterfaceError) as error:
        log.warning("progress_not_saved", task_id=run_id, error=str(error))
        return
    if saved:
        for receiver, answer in progressed.send_robust(
            sender=Run, run_id=run_id, done=progress.done, total=progress.total, note=progress.note
        ):
            if isinstance(answer, Exception):
                log.warning("progress_not_announced", task_id=run_id, receiver=repr(receiver), error=str(answer))
