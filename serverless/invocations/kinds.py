"""Which kind of event a function was invoked with. Pure.

Strict: what is not known raises, so that AWS tries it again and then puts it where failures are kept. An event that is
passed over in silence counts as a success, and a batch of SQS messages would be deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

#: Of unknown events, no more is told than the names of their fields; they may hold anything.
_MOST_NAMES = 12


class Kind(StrEnum):
    """HTTP: API Gateway v1 or v2, a function URL or a load balancer. MANAGE: a command. NAMED: an event with a name."""

    HTTP = "http"
    MANAGE = "manage"
    NAMED = "named"


class UnroutableError(ValueError):
    """No rule says who handles such an event."""

    def __init__(self, event: object, reason: str, remedy: str) -> None:
        super().__init__(f"{_shape(event)}: {reason}. {remedy}")
        self.event = event
        self.reason = reason


def kind_of(event: object) -> Kind:
    """Raises UnroutableError."""
    if not isinstance(event, Mapping):
        raise UnroutableError(event, "it is not an object", "Send one with a name, such as {'event': 'housekeeping'}.")
    context = event.get("requestContext")
    if isinstance(context, Mapping):
        if "connectionId" in context:
            raise UnroutableError(event, "it is of a WebSocket API", "Point that API at its own function.")
        if "elb" in context or "httpMethod" in event or (event.get("version") == "2.0" and "http" in context):
            return Kind.HTTP
        raise UnroutableError(event, "it has a requestContext of no known kind", "See docs/lambda.md for those known.")
    if "httpMethod" in event and "path" in event:
        return Kind.HTTP
    if "manage" in event:
        if set(event) == {"manage"} and isinstance(event["manage"], str):
            return Kind.MANAGE
        raise UnroutableError(event, "a command is one text, and stands alone", 'Send {"manage": "migrate --check"}.')
    if {"command", "raw_command"} & set(event):
        raise UnroutableError(event, "functions and code are not run by name", "Write a management command.")
    if name_of(event):
        return Kind.NAMED
    if "Records" in event:
        raise UnroutableError(
            event, f"this function takes no records of {_source(event)}", "Map them to a function of their own."
        )
    if "detail-type" in event:
        raise UnroutableError(
            event,
            "the rule that sent it gives no name",
            'Give its entry in zappa_settings.json "kwargs": {"event": NAME}, with a NAME of EVENT_HANDLERS.',
        )
    raise UnroutableError(event, "it is of no known kind", "See docs/lambda.md for those known.")


def name_of(event: Mapping[str, Any]) -> str:
    """The name that says who handles it; "" if there is none.

    It stands at the top where EventBridge Scheduler sends it, and among kwargs where Zappa has made the rule.
    """
    kwargs = event.get("kwargs")
    for place in (event, kwargs if isinstance(kwargs, Mapping) else {}):
        name = place.get("event")
        if isinstance(name, str) and name:
            return name
    return ""


def _source(event: Mapping[str, Any]) -> str:
    records = event["Records"]
    first = records[0] if isinstance(records, list) and records else None
    if isinstance(first, Mapping):
        return str(first.get("eventSource") or first.get("EventSource") or "an unknown service")[:40]
    return "an unknown service"


def _shape(event: object) -> str:
    if not isinstance(event, Mapping):
        return f"event of type {type(event).__name__}"
    names = sorted(str(name)[:40] for name in event)
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return f"event with {', '.join(names[:_MOST_NAMES]) or 'no fields'}{more}"
