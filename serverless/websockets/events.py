"""The events that a WebSocket API invokes its function with, read strictly. Pure.

Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-mapping-template-reference.html
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlencode

from serverless.websockets.errors import EventError, RequestError
from serverless.websockets.names import channel_name

#: A WebSocket API has no paths; the client's address has ?path=/ws/...
PATH_PARAMETER = "path"
#: What a browser says of a connection that broke.
ABNORMAL_CLOSURE = 1006

#: Of unknown events, no more is told than the names of their fields; they may hold anything.
_MOST_NAMES = 12
_REMEDY = "Point only the routes $connect, $default and $disconnect of a WebSocket API at this function."


class Kind(StrEnum):
    """What happened to the connection. MESSAGE: the client has sent one."""

    CONNECT = "CONNECT"
    MESSAGE = "MESSAGE"
    DISCONNECT = "DISCONNECT"


@dataclass(frozen=True)
class Event:
    """One event of one connection.

    stage, domain: of the API as the client called it. headers, query: of the client's request, with CONNECT only.
    """

    kind: Kind
    connection_id: str
    stage: str = ""
    domain: str = ""
    source_address: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    body: str = ""
    is_base64: bool = False
    close_code: int = ABNORMAL_CLOSURE
    close_reason: str = ""


def parse(event: object) -> Event:
    """Raises EventError for what no WebSocket API sends."""
    if not isinstance(event, Mapping):
        raise EventError(f"event of type {type(event).__name__}: it is not an object. {_REMEDY}")
    context = event.get("requestContext")
    if not isinstance(context, Mapping) or not isinstance(context.get("connectionId"), str):
        shown = ", ".join(sorted(map(str, event))[:_MOST_NAMES]) or "no fields"
        raise EventError(f"event with {shown}: it has no requestContext.connectionId. {_REMEDY}")
    told = str(context.get("eventType"))
    if told not in set(Kind):
        raise EventError(f'eventType "{told[:40]}" is none of {", ".join(Kind)}. {_REMEDY}')
    connection_id = context["connectionId"]
    # Raises for an id that could not be a channel.
    channel_name(connection_id)
    body, identity = event.get("body"), context.get("identity")
    code = context.get("disconnectStatusCode")
    return Event(
        kind=Kind(told),
        connection_id=connection_id,
        stage=str(context.get("stage") or ""),
        domain=str(context.get("domainName") or ""),
        source_address=str(identity.get("sourceIp") or "") if isinstance(identity, Mapping) else "",
        headers=tuple(_pairs(event, "multiValueHeaders", "headers")),
        query=_query(event),
        body=body if isinstance(body, str) else "",
        is_base64=event.get("isBase64Encoded") is True,
        close_code=code if type(code) is int and code > 0 else ABNORMAL_CLOSURE,
        close_reason=str(context.get("disconnectReason") or ""),
    )


def scope(event: Event) -> dict[str, Any]:
    """The ASGI scope of a CONNECT, as daphne and uvicorn make it. Raises RequestError."""
    query = dict(event.query)
    paths = query.pop(PATH_PARAMETER, ("/",))
    if len(paths) != 1 or not paths[0].startswith("/"):
        raise RequestError(
            f"query parameter path={list(paths)!r:.200}: it stands for the path, which a WebSocket API has not, so it "
            'must be given once and begin with "/". Write wss://HOST/STAGE?path=/ws/...'
        )
    headers = [(name.lower().encode(errors="replace"), _header(value)) for name, value in event.headers]
    offered = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
    return blank_scope() | {
        "path": paths[0],
        "raw_path": quote(paths[0], errors="replace").encode(),
        "headers": headers,
        "query_string": urlencode(query, doseq=True, errors="replace").encode(),
        "subprotocols": [text.strip() for line in offered for text in line.split(",") if text.strip()],
        "client": [event.source_address, 0],
        "server": [event.domain, 443],
    }


def blank_scope() -> dict[str, Any]:
    """What all scopes of a WebSocket API have in common."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "wss",
        "root_path": "",
        "query_string": b"",
        "extensions": {},
    }


def received(event: Event) -> dict[str, Any]:
    """The ASGI message of a MESSAGE. Raises RequestError for bytes that are no base64."""
    if not event.is_base64:
        return {"type": "websocket.receive", "text": event.body}
    try:
        return {"type": "websocket.receive", "bytes": base64.b64decode(event.body, validate=True)}
    except (binascii.Error, ValueError):
        raise RequestError(
            f"a binary message of {len(event.body)} characters is no base64, as isBase64Encoded says it is."
        ) from None


def disconnected(event: Event) -> dict[str, Any]:
    """The ASGI message of a DISCONNECT."""
    return {"type": "websocket.disconnect", "code": event.close_code, "reason": event.close_reason}


def _pairs(event: Mapping[str, Any], many: str, single: str) -> list[tuple[str, str]]:
    """Names and values, from whichever of the two forms the event has."""
    for field_name in (many, single):
        if isinstance(event.get(field_name), Mapping):
            return [
                (str(name), str(value))
                for name, given in event[field_name].items()
                for value in (given if isinstance(given, list) else [given])
            ]
    return []


def _query(event: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in _pairs(event, "multiValueQueryStringParameters", "queryStringParameters"):
        found[name] = (*found.get(name, ()), value)
    return found


def _header(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode(errors="replace")
