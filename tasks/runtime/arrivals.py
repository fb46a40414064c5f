"""Runs whose messages come from elsewhere: a producer without Django, or EventBridge."""

from __future__ import annotations

from typing import Any

from kombu.utils.json import dumps

from django_app.ledger.models import Run
from tasks.runtime import publishing, recording

#: What a request holds beside its message's headers.
_NOT_HEADERS = frozenset(
    {"args", "kwargs", "delivery_info", "properties", "hostname", "reply_to", "correlation_id", "callbacks", "errbacks"}
    | {"chain", "chord", "is_eager", "loglevel", "logfile", "headers", "called_directly", "holder"}
)


def describe(task: Any, task_id: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Run:
    """A run, with its message, as the request of its first execution tells of it."""
    headers = {key: value for key, value in request.items() if key not in _NOT_HEADERS}
    headers |= {"id": task_id, "task": task.name}
    embed = {key: request.get(key) for key in ("callbacks", "errbacks", "chain", "chord")}
    delivery = request.get("delivery_info") or {}
    queue = delivery.get("routing_key") or ""
    body = (list(args), dict(kwargs), embed)
    run = recording.describe_run(task.name, headers, body, queue, {})
    options = {
        "exchange": "",
        "routing_key": queue,
        "headers": headers,
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": task_id,
        "reply_to": request.get("reply_to") or "",
        "priority": delivery.get("priority"),
    }
    run.priority = delivery.get("priority")
    run.message = publishing.pack(dumps(body), options)
    return run
