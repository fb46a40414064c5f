"""The message of a schedule's run: finished, as Celery would send it, for EventBridge to deliver or for the outbox.

EventBridge puts the due time in the place of <aws.scheduler.scheduled-time>, and with it completes the task id.
"""

from __future__ import annotations

import datetime
import json
import uuid
from typing import Any

from celery import current_app
from kombu.utils.json import dumps

from django_app.ledger.models import Run, Schedule
from django_app.ledger.schedules import ids
from serverless.broker import envelope
from tasks.runtime import publishing, recording
from tasks.runtime.routing import limits_for
from tasks.topology import DEFAULT_PRIORITY

#: EventBridge's own word, which it replaces wherever it stands in a schedule's input.
SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"
#: Bytes. EventBridge and SQS take 256 KiB; the rest is left to what travels along.
LARGEST_INPUT_BYTES = 200 << 10
#: Of apply_async's options, those that a schedule's runs may have.
OPTIONS = frozenset(
    {"queue", "priority", "expires", "headers", "time_limit", "soft_time_limit", "ignore_result", "shadow"}
)
_JSON, _UTF8 = "application/json", "utf-8"


def queue_of(schedule: Schedule) -> str:
    """The queue that its messages go to. Raises TopologyError and what Celery's router raises."""
    options = {key: schedule.options[key] for key in ("queue", "priority") if schedule.options.get(key) is not None}
    amqp: Any = current_app.amqp
    task = current_app.tasks.get(schedule.task)
    route = amqp.router.route(options, schedule.task, schedule.args, schedule.kwargs, task)
    queue = route["queue"]
    return queue if isinstance(queue, str) else str(queue.name)


def describe(schedule: Schedule, run_id: str, scheduled_for: datetime.datetime | None, by: str = "") -> Run:
    """A run of the schedule with its message, not yet recorded.

    by: who asked for it; "": whoever the schedule belongs to. Raises TopologyError for a queue that there is not.
    """
    time = scheduled_for.strftime(ids.FORMAT) if scheduled_for is not None else None
    queue = queue_of(schedule)
    headers, body = _message(schedule, queue, run_id, time, by)
    run = recording.describe_run(schedule.task, headers, body, queue, {})
    run.expires_at = schedule.expires_at(scheduled_for)
    run.priority = _priority(schedule)
    run.message = publishing.pack(
        dumps(body),
        {
            "exchange": "",
            "routing_key": queue,
            "headers": headers,
            "content_type": _JSON,
            "content_encoding": _UTF8,
            "correlation_id": run_id,
            "reply_to": "",
            "priority": run.priority,
        },
    )
    return run


def input_of(schedule: Schedule) -> str:
    """What EventBridge sends to the queue: the body of an SQS message, with its word in place of the due time."""
    # A text of its own in that place first: arguments may hold EventBridge's words, and are to arrive as they are.
    place = uuid.uuid5(uuid.NAMESPACE_OID, schedule.name).hex
    run_id = f"{schedule.name}@{place}"
    queue = queue_of(schedule)
    headers, body = _message(schedule, queue, run_id, place, "")
    message = {
        "body": dumps(body),
        "content-encoding": _UTF8,
        "content-type": _JSON,
        "headers": headers,
        "properties": {
            "correlation_id": run_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": _priority(schedule),
            "body_encoding": _UTF8,
        },
    }
    text = envelope.encode(message, as_base64=False)
    return text.replace("<", "\\u003c").replace(place, SCHEDULED_TIME)


def _priority(schedule: Schedule) -> int:
    priority = schedule.options.get("priority")
    return DEFAULT_PRIORITY if priority is None else int(priority)


def _message(
    schedule: Schedule, queue: str, run_id: str, scheduled_for: str | None, by: str
) -> tuple[dict[str, Any], tuple[list[Any], dict[str, Any], dict[str, Any]]]:
    """(headers, body) as Celery makes them."""
    options = schedule.options
    amqp: Any = current_app.amqp
    made = amqp.as_task_v2(
        run_id,
        schedule.task,
        schedule.args,
        schedule.kwargs,
        origin="schedule",
        shadow=options.get("shadow"),
        ignore_result=bool(
            options.get("ignore_result", getattr(current_app.tasks.get(schedule.task), "ignore_result", False))
        ),
        time_limit=options.get("time_limit"),
        soft_time_limit=options.get("soft_time_limit"),
    )
    headers: dict[str, Any] = {**made.headers, **(options.get("headers") or {})}
    headers["timelimit"] = limits_for(schedule.task, queue, headers["timelimit"])
    headers["schedule"] = schedule.name
    if scheduled_for is not None:
        headers["scheduled_for"] = scheduled_for
    if by or schedule.requested_by:
        headers["requested_by"] = by or schedule.requested_by
    if schedule.tenant:
        headers["tenant"] = schedule.tenant
    return headers, made.body


def as_json(value: object) -> Any:
    """What arrives of a value that is sent: what it looks like in JSON. Raises TypeError for what is not JSON."""
    return json.loads(dumps(value))
