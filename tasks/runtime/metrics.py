"""Metrics of what workers do: one line for each execution that ended, see django_app.ledger.metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django_app.ledger import metrics
from django_app.ledger.metrics import Bounded, Metric
from tasks.topology import TOPOLOGY

if TYPE_CHECKING:
    from tasks.runtime.logs import Ended

#: Names of tasks that one process tells apart.
_task_name = Bounded(100)
#: By queue and task, and by queue alone, for an alarm that need not know every task.
_SETS = (("Queue", "Task"), ("Queue",))


def tell(ended: Ended) -> None:
    """Print the metrics of an outcome, where they are wanted."""
    if not metrics.is_on():
        return
    queue = ended.queue if ended.queue in TOPOLOGY.queues else metrics.OTHER
    told = [Metric(f"Runs{ended.outcome.capitalize()}", 1)]
    if ended.wait_seconds is not None:
        told.append(Metric("WaitTime", round(ended.wait_seconds, 3), "Seconds"))
    if ended.seconds is not None:
        told.append(Metric("RunTime", round(ended.seconds, 3), "Seconds"))
    metrics.emit(
        int(time.time() * 1000),
        {"Queue": queue, "Task": _task_name(ended.task)},
        told,
        sets=_SETS,
        fields={"RunId": ended.task_id},
    )
