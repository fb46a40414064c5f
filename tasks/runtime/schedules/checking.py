"""Whether a schedule's runs could ever run: its task, its arguments, its options."""

from __future__ import annotations

from typing import Any

from celery import current_app

from django_app.ledger.models import Schedule
from tasks.runtime import limits
from tasks.runtime.schedules import messages
from tasks.runtime.schedules.hints import nearest
from tasks.topology import TopologyError

#: What Celery's apply_async also takes, and what is to be done instead.
_INSTEAD = {
    "eta": "Its time is the schedule's timing",
    "countdown": "Its time is the schedule's timing",
    "task_id": "Its id is made of the schedule's name and the due time",
    "link": "Let the task enqueue what follows it",
    "link_error": "Let the task's on_failure enqueue it",
    "chain": "Schedule a task that starts the chain",
    "chord": "Schedule a task that starts the chord",
    "recorded": "A schedule's runs are always recorded",
    "unique_key": "Its overlap rule keeps its runs apart",
    "concurrency_key": "Let the task declare it",
}


def check(schedule: Schedule) -> dict[str, str]:
    """What is wrong, by field; nothing if it could run."""
    faults: dict[str, str] = {}
    if not isinstance(schedule.args, list):
        faults["args"] = f"args={_shown(schedule.args)} is no list. Write [] for none."
    if not isinstance(schedule.kwargs, dict) or not all(isinstance(key, str) for key in schedule.kwargs):
        faults["kwargs"] = f"kwargs={_shown(schedule.kwargs)} is no object with names as keys. Write {{}} for none."
    task = task_named(schedule.task)
    if task is None:
        faults["task"] = _unknown(schedule.task)
    faults |= _options(schedule)
    if faults:
        return faults
    return _arguments(schedule, task) or _size(schedule)


def task_named(name: str) -> Any:
    """A task of this release, or None."""
    if name not in current_app.tasks:
        # The web side imports a task's module when it first needs it.
        current_app.loader.import_default_modules()
    return current_app.tasks.get(name)


def task_names() -> list[str]:
    """All that a schedule may name."""
    current_app.loader.import_default_modules()
    return sorted(name for name in current_app.tasks if not name.startswith("celery."))


def _unknown(name: str) -> str:
    hint = nearest(name, task_names(), "Deploy the release that has it, or name one of this release's.")
    return f'task "{name}" is none of this release. {hint}'


def _options(schedule: Schedule) -> dict[str, str]:
    options = schedule.options
    if not isinstance(options, dict):
        return {"options": f"options={_shown(options)} is no object. Write {{}} for none."}
    for name in options:
        if name in messages.OPTIONS:
            continue
        instead = _INSTEAD.get(name)
        rest = f"{instead}; leave it out." if instead is not None else nearest(name, messages.OPTIONS)
        return {"options": f'option "{name}" cannot be given to a scheduled run. {rest}'}
    expires = options.get("expires")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int | float) or expires <= 0):
        return {"options": f"option expires={_shown(expires)} must be seconds above 0, counted from each due time."}
    headers = options.get("headers")
    if headers is not None and not isinstance(headers, dict):
        return {"options": f"option headers={_shown(headers)} is no object."}
    try:
        messages.queue_of(schedule)
        messages.describe(schedule, "check", None)
    except (TopologyError, limits.LimitError) as error:
        return {"options": str(error)}
    except Exception as error:
        if task_named(schedule.task) is None or not isinstance(schedule.args, list):
            return {}  # that is the fault, and it is told
        return {"options": f"its message cannot be made: {error}"}
    return {}


def _arguments(schedule: Schedule, task: Any) -> dict[str, str]:
    try:
        # As apply_async checks them, whatever the task's `typing` says: nobody sees an error of EventBridge's call.
        task.__header__(*schedule.args, **schedule.kwargs)
    except TypeError as error:
        field = "kwargs" if "unexpected keyword" in str(error) else "args"
        # Without their values, which may be secret.
        given = f"{len(schedule.args)} positional arguments"
        if schedule.kwargs:
            given += f" and {', '.join(sorted(schedule.kwargs))}"
        return {
            field: f"task {schedule.task} cannot be called with {given}: {error}. Give what its signature asks for."
        }
    return {}


def _size(schedule: Schedule) -> dict[str, str]:
    size = len(messages.input_of(schedule).encode())
    if size > messages.LARGEST_INPUT_BYTES:
        return {
            "args": f"its message of {size} bytes exceeds {messages.LARGEST_INPUT_BYTES}, which EventBridge can keep. "
            "Store what is large, and give the task its id."
        }
    return {}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
