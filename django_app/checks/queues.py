"""Queues, the pools that consume them, and the limits of what runs in them."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

from celery.exceptions import QueueNotFound

from django_app.checks.findings import Finding, Place
from django_app.checks.project import Project
from django_app.checks.reading import keyword
from django_app.checks.signatures import sent_by
from tasks.runtime.routing import limits_for
from tasks.topology import TopologyError

#: Seconds, the time limit above which the work of a queue is long.
LONG_SECONDS = 300


def undeclared_queues(project: Project) -> Iterator[Finding]:
    """E007: a task routed to no declared queue, or a call that names none."""
    for task in project.tasks.values():
        try:
            queue_of(project, task)
        except (TopologyError, QueueNotFound) as error:
            yield _undeclared(project.place_of(task), f"task {task.name}", error)
    for doing in project.doings:
        task, asked = sent_by(doing), keyword(doing.node, "queue")
        if task is None or not isinstance(asked, ast.Constant) or not isinstance(asked.value, str):
            continue
        try:
            project.topology.queue(asked.value)
        except TopologyError as error:
            yield _undeclared(doing.place, f"{doing.method} of task {task.name}", error)


def queue_of(project: Project, task: Any) -> str | None:
    """The queue that a task goes to if its call names none; None if the call decides.

    Raises TopologyError and QueueNotFound.
    """
    options = {name: getattr(task, name, None) for name in ("queue", "priority")}
    options = {name: value for name, value in options.items() if value is not None}
    try:
        queue = project.app.amqp.router.route(options, task.name, (), {}, task).get("queue")
    except (TopologyError, QueueNotFound):
        raise
    except Exception:
        return None  # a router of the project's own that wants to see arguments
    return queue if isinstance(queue, str | None) else str(queue.name)


def _undeclared(place: Place | str, what: str, error: Exception) -> Finding:
    text, _, remedy = str(error).strip("'").partition(". ")
    return Finding(
        "E007", place, f"{what}: {text}.", remedy or "Declare it in tasks/topology.json, or name one that is there."
    )


def queues_without_pool(project: Project) -> Iterator[Finding]:
    """E008: a queue that no pool consumes. That each queue of the topology names a pool is told when it is loaded."""
    for name in project.app.amqp.queues:
        if name not in project.topology.queues:
            yield Finding(
                "E008",
                "Celery's task_queues",
                f'queue "{name}" is not in tasks/topology.json, so no pool consumes it, and nothing makes it on AWS.',
                "Declare it there, with its pool; tasks/celery.py takes all queues from there.",
            )


def time_limits(project: Project) -> Iterator[Finding]:
    """E009: time limits of a task that are out of order, or above its queue's."""
    for task in project.tasks.values():
        hard, soft = task.time_limit, task.soft_time_limit
        if hard is not None and soft is not None and soft >= hard:
            yield Finding(
                "E009",
                project.place_of(task),
                f"task {task.name}: soft_time_limit={soft} is not below time_limit={hard}, so it would be killed "
                "before it is told to stop.",
                "Lower the soft one, or leave it out: then it is a tenth, at most 30 seconds, below.",
            )
        try:
            queue = queue_of(project, task)
            if queue is not None:
                limits_for(task.name, queue, [hard, soft])
        except TopologyError as error:
            if queue_is_declared(project, task):
                text, _, remedy = str(error).partition(". ")
                yield Finding("E009", project.place_of(task), f"{text}.", remedy)
        except QueueNotFound:
            continue  # E007 tells


def queue_is_declared(project: Project, task: Any) -> bool:
    try:
        return queue_of(project, task) in project.topology.queues
    except (TopologyError, QueueNotFound):
        return False


def prefetch_of_long_queues(project: Project) -> Iterator[Finding]:
    """W010: messages that wait behind long work in a worker that holds them, while others are idle."""
    multiplier = project.app.conf.worker_prefetch_multiplier
    for queue in project.topology.queues.values():
        # Celery's 0 is: as many as come.
        held = queue.prefetch * multiplier or math.inf
        if held > 1 and queue.time_limit_seconds > LONG_SECONDS:
            told = f"prefetch={queue.prefetch}"
            if multiplier != 1:
                told += f" with worker_prefetch_multiplier={multiplier}"
            yield Finding(
                "W010",
                f'queue "{queue.name}"',
                f"{told}: a process holds {'all' if held == math.inf else held} messages of up to "
                f"{queue.time_limit_seconds} seconds, and works on one while the others wait and other workers are "
                f"idle. Above {LONG_SECONDS} seconds, hold one.",
                "Set prefetch to 1 in tasks/topology.json and leave worker_prefetch_multiplier at 1, or lower the "
                "queue's time_limit_seconds.",
            )
