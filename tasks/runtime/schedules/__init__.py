"""Schedules on Celery's side: their messages, whether they could run, and their way to EventBridge."""

from tasks.runtime.schedules.asking import MOST_TIMES, BackfillError, backfill, due_times, run_now
from tasks.runtime.schedules.checking import check, task_names
from tasks.runtime.schedules.messages import describe
from tasks.runtime.schedules.syncing import repair, synchronise

__all__ = [
    "MOST_TIMES",
    "BackfillError",
    "backfill",
    "check",
    "describe",
    "due_times",
    "repair",
    "run_now",
    "synchronise",
    "task_names",
]
