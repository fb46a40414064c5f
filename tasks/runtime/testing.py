"""For tests of tasks in Django's `TestCase`, where nothing commits and so nothing is published.

class Orders(TestCase):
    def test_an_order_is_confirmed(self):
        with captured_runs(execute=True) as runs:
            place_order()
        self.assertEqual([run.task for run in runs], ["orders.tasks.confirm"])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import current_app
from celery.app.trace import build_tracer
from kombu.utils.json import loads

from django_app.ledger.models import Run
from tasks.runtime import publishing, recording
from tasks.runtime.once import ending_when_done
from tasks.runtime.tracing import Claiming, replacing

#: Runs that one block executes at most: a task that enqueues itself would never end.
_MOST_RUNS = 10_000


class EndlessRunsError(RuntimeError):
    """The block's tasks go on enqueueing others."""


@contextmanager
def captured_runs(*, execute: bool = False) -> Iterator[list[Run]]:
    """The runs that are enqueued in the block, in order; a list that is complete when the block ends.

    execute: when the block ends, run them here, one after the other, and what they enqueue after them, with claim,
    outcome, retries and workflows as a worker would, though no delay is waited for. The runs in the list are up to date
    then. A task that fails fails its run, not the test: look at the run's state and error.
    Raises EndlessRunsError.
    """
    with recording.watching() as runs:
        yield runs
        if execute:
            done = 0
            while done < len(runs):
                if done >= _MOST_RUNS:
                    raise EndlessRunsError(f"{_MOST_RUNS} runs were executed, and the last ones enqueue others still.")
                _execute(runs[done])
                done += 1
    for run in runs:
        run.refresh_from_db()


def _execute(run: Run) -> None:
    app: Any = current_app._get_current_object()  # type: ignore[attr-defined]
    body, options = publishing.unpack(run.message)
    args, kwargs, embed = loads(body)
    task = app.tasks[run.task]
    unwrapped, task.run = task.run, ending_when_done(task.run)
    replaced, task.on_replace = task.on_replace, replacing(task.on_replace)
    try:
        tracer = Claiming(app, task, build_tracer(task.name, task, app.loader, "test", app=app))
        request = {**options["headers"], **embed, "delivery_info": {"routing_key": run.queue}, "hostname": "test"}
        tracer(run.pk, args, kwargs, {**request, "is_eager": False})
    finally:
        task.run, task.on_replace = unwrapped, replaced
