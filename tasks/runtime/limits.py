"""Limits that runs share across all workers: how many are at work at once, how many begin in a period.

A task declares them: `@shared_task(concurrency=2)`, `@shared_task(rate="100/m")`, each for all of its runs, or for
those of one key: `concurrency_key=lambda tenant, **_: tenant`, or `apply_async(concurrency_key="tenant 7")`.
(Celery's own `rate_limit` goes on to mean: a worker.)
"""

from __future__ import annotations

import re
from typing import Any

from django_app.ledger.parking import Limit

_RATE = re.compile(r"^\s*(\d+)\s*/\s*(s|m|h|d)\s*$")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_KEY = 150


class LimitError(ValueError):
    """A task declares a limit that is none."""


def of(task: Any) -> Limit | None:
    """The limit that a task declares, or None. Raises LimitError."""
    at_once, rate = getattr(task, "concurrency", None), getattr(task, "rate", None)
    if at_once is None and rate is None:
        return None
    if at_once is not None and (not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1):
        raise LimitError(f"task {task.name}: concurrency={at_once!r} must be a whole number from 1 on, or None.")
    begun, period = None, 1.0
    if rate is not None:
        found = _RATE.match(str(rate))
        if found is None or int(found[1]) < 1:
            raise LimitError(
                f'task {task.name}: rate={rate!r} must be a number from 1 on, a slash and s, m, h or d: "100/m".'
            )
        begun, period = int(found[1]), _SECONDS[found[2]]
    return Limit(at_once, begun, period)


def key_of(task: Any, args: Any, kwargs: Any, asked: str | None) -> str:
    """The key under which a run shares its task's limit; "" where the task has none.

    asked: `apply_async(concurrency_key=...)`. Raises LimitError, and what the task's own concurrency_key raises.
    """
    if task is None or of(task) is None:
        if asked:
            name = getattr(task, "name", None) or "?"
            raise LimitError(
                f"task {name}: concurrency_key={asked!r} is given, but the task declares no concurrency and no rate. "
                "Declare one: @shared_task(concurrency=1)."
            )
        return ""
    key = asked
    if key is None:
        declared = getattr(task, "concurrency_key", None)
        # A function that was given to the decorator has become a method of the task.
        declared = getattr(declared, "__func__", declared)
        key = declared(*(args or ()), **(kwargs or {})) if callable(declared) else declared or ""
    key = str(key)
    if len(key) > _LONGEST_KEY:
        raise LimitError(f"task {task.name}: concurrency_key of {len(key)} characters exceeds {_LONGEST_KEY}.")
    return f"{task.name[:100]} {key}"
