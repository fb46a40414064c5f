"""`with once(self) as done:` - database effects that happen once, however often a task's message is delivered.

The block is one transaction, and a mark in it says that it is done. Whoever comes to the block again, in a second
execution of the run, finds the mark: the task ends there, with the result of the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from kombu.utils.json import dumps, loads

from django_app.ledger.models import OnceMark

_LONGEST_KEY = 200
_LONGEST_RUN_ID = 251


class OnceKeyError(ValueError):
    """A key under which nothing can be done once."""


class DoneBefore(BaseException):
    """The block is done already: its task ends here, with that result. No `except Exception` may catch it."""

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result


class Done:
    """Called with the task's result, which it gives back: `return done(total)`."""

    def __init__(self) -> None:
        self.result: Any = None

    def __call__(self, result: Any) -> Any:
        self.result = result
        return result


@contextmanager
def once(task: Any, key: str | None = None) -> Iterator[Done]:
    """One transaction of the default database whose effects happen once.

    task: the bound task, `self`. key: what is done once; default: this block of this run. Two blocks in one task need
    keys; a key is shared by all runs of the task that name it, so that "the invoice of order 7" is made once whoever
    asks.
    A second execution ends at the block, also if another is inside it at this moment: it waits for that one's end.
    Its result is what the first gave to `done`, None if it gave nothing.
    What the block does outside of the database may repeat, if the process dies before its end.
    Raises OnceKeyError.
    """
    mark = _key_of(task, key)
    done = Done()
    with transaction.atomic():
        made = _mark(mark, task.request.id or "")
        if not made:
            raise DoneBefore(_result(mark))
        yield done
        if done.result is not None:
            OnceMark.objects.filter(pk=mark).update(value=dumps(done.result))


def _key_of(task: Any, key: str | None) -> str:
    if not hasattr(task, "request"):
        raise OnceKeyError(
            f"once({task!r}) needs the task itself: declare it with @shared_task(bind=True) and pass self."
        )
    if key is None:
        run_id = task.request.id
        if not run_id:
            raise OnceKeyError(
                f"task {task.name}: once(self) outside of a run cannot tell one call from another: give it a key."
            )
        # Ids may be as long as the column.
        return (
            f"run {run_id}"
            if len(run_id) <= _LONGEST_RUN_ID
            else f"run of {hashlib.sha256(run_id.encode()).hexdigest()}"
        )
    if not isinstance(key, str) or not key or len(key) > _LONGEST_KEY:
        raise OnceKeyError(f"task {task.name}: once key {key!r} must be a text of 1 to {_LONGEST_KEY} characters.")
    # Together with the name at most as long as the column.
    return f"key {task.name[-45:]} {key}"


def _mark(key: str, run_id: str) -> bool:
    """Whether the mark is new. Another transaction that is making the same one is waited for."""
    if OnceMark.objects.filter(pk=key).exists():
        return False
    try:
        with transaction.atomic():
            OnceMark.objects.create(key=key, run_id=run_id, created_at=timezone.now())
    except IntegrityError:
        return False
    return True


def _result(key: str) -> Any:
    value = OnceMark.objects.filter(pk=key).values_list("value", flat=True).first()
    return loads(value) if value else None


def ending_when_done(run: Callable[..., Any]) -> Callable[..., Any]:
    """A task's function that returns the first result where a block in it is done already."""

    def running(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except DoneBefore as done:
            return done.result

    return running
