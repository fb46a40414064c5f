"""Unique runs: `apply_async(unique_key=..., unique_for=...)` gives the run that exists instead of making a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import current_app
from celery.result import AsyncResult
from django.db import transaction
from kombu.utils.uuid import uuid

from django_app.ledger import uniqueness
from tasks.runtime import recording

_LONGEST_KEY = 150
_LONGEST_SECONDS = 10 * 366 * 86400


class UniqueKeyError(ValueError):
    """A unique key that cannot be kept."""


def check(name: str, key: Any, seconds: Any, options: dict[str, Any]) -> None:
    """Raise UniqueKeyError for what makes no sense."""
    if not isinstance(key, str) or not key or len(key) > _LONGEST_KEY:
        raise UniqueKeyError(
            f"task {name}: unique_key={key!r} must be a text of 1 to {_LONGEST_KEY} characters; "
            "make one of the arguments that make the run what it is."
        )
    if "\x00" in key or key.encode("utf-8", "replace").decode() != key:
        raise UniqueKeyError(f"task {name}: unique_key={key!r} holds characters that the database cannot keep.")
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_SECONDS
    ):
        raise UniqueKeyError(
            f"task {name}: unique_for={seconds!r} must be seconds above 0 and up to ten years, "
            "or None: until the run ends."
        )
    if not recording.is_recorded(current_app.tasks.get(name), options.get("recorded"), bool(options.get("chord"))):
        raise UniqueKeyError(f"task {name}: unique_key needs a recorded run, and this one is not recorded.")


def send(  # noqa: PLR0917
    app: Any,
    name: str,
    key: str,
    seconds: float | None,
    task_id: str | None,
    deliver: Callable[[str, str], AsyncResult],
) -> AsyncResult:
    """Send unless a run of that key exists; the result of whichever there is.

    seconds: that the key is held at least; None: until the run ends. A key belongs to a task: others may use the same.
    deliver: takes the task id and the key, and sends.
    """
    own = task_id or uuid()
    full = f"{name[:100]} {key}"
    # Recorded in this very transaction: what has a key and no row would look as if it had been forgotten.
    with transaction.atomic(), recording.at_once():
        holder = uniqueness.reserve(full, own, seconds)
        if holder == own:
            return deliver(own, full)
    if task_id is not None:
        raise UniqueKeyError(
            f"task {name}: unique_key={key!r} is held by run {holder}, and this call must have the id {task_id}: "
            "a member of a canvas cannot be another run. Enqueue it by itself."
        )
    existing: AsyncResult[Any] = app.AsyncResult(holder)
    return existing
