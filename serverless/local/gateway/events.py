"""The events that a WebSocket API makes of what its clients do. Pure.

Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-mapping-template-reference.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

Json = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

API_ID = "local"
#: Between two hops only, and what API Gateway writes itself.
_NOT_PASSED_ON = {
    *("connection", "upgrade", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("x-amzn-trace-id", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto"),
}


@dataclass(frozen=True)
class Client:
    """What every event of a connection tells about it.

    domain: the host that the client called, with its port. connected_at: seconds since 1970.
    """

    connection_id: str
    stage: str
    domain: str
    address: str
    user_agent: str | None
    connected_at: float


@dataclass(frozen=True)
class Moment:
    """Of one event. now: seconds since 1970. request_id: as API Gateway gives each a new one."""

    now: float
    request_id: str


def connect(client: Client, headers: Headers, query: str, moment: Moment, trace_id: str) -> Json:
    """A client asks for a socket. headers: as it sent them. query: as it stands in the address."""
    claimed = [value for name, value in headers if name.lower() == "x-forwarded-for"]
    passed = [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON]
    added = {
        "X-Amzn-Trace-Id": trace_id,
        "X-Forwarded-For": ", ".join([*claimed, client.address]),
        "X-Forwarded-Port": client.domain.rpartition(":")[2] if ":" in client.domain else "80",
        "X-Forwarded-Proto": "http",
    }
    asked = _lists(parse_qsl(query, keep_blank_values=True))
    # Without a query the event has neither of the two.
    parameters = {} if not asked else {"queryStringParameters": _last(asked), "multiValueQueryStringParameters": asked}
    return {
        **_headers(_lists([*passed, *added.items()])),
        **parameters,
        "requestContext": _context(client, "CONNECT", "$connect", moment),
        "isBase64Encoded": False,
    }


def message(client: Client, text: str, moment: Moment, message_id: str) -> Json:
    """A client has sent a message."""
    context = _context(client, "MESSAGE", "$default", moment) | {"messageId": message_id}
    return {"requestContext": context, "body": text, "isBase64Encoded": False}


def disconnect(client: Client, code: int, reason: str, moment: Moment) -> Json:
    """A connection has ended, whoever ended it."""
    context = _context(client, "DISCONNECT", "$disconnect", moment)
    return {
        **_headers({"Host": [client.domain], "x-api-key": [""], "X-Forwarded-For": [""], "x-restapi": [""]}),
        "requestContext": context | {"disconnectStatusCode": code, "disconnectReason": reason},
        "isBase64Encoded": False,
    }


def _context(client: Client, kind: str, route: str, moment: Moment) -> Json:
    identity = {"sourceIp": client.address} | ({"userAgent": client.user_agent} if client.user_agent else {})
    return {
        "routeKey": route,
        "eventType": kind,
        "extendedRequestId": moment.request_id,
        "requestTime": datetime.fromtimestamp(moment.now, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "messageDirection": "IN",
        "stage": client.stage,
        "connectedAt": int(client.connected_at * 1000),
        "requestTimeEpoch": int(moment.now * 1000),
        "identity": identity,
        "requestId": moment.request_id,
        "domainName": client.domain,
        "connectionId": client.connection_id,
        "apiId": API_ID,
    }


def _headers(lists: dict[str, list[str]]) -> Json:
    return {"headers": _last(lists), "multiValueHeaders": lists}


def _last(lists: dict[str, list[str]]) -> dict[str, str]:
    """Of several values of one name, the last."""
    return {name: values[-1] for name, values in lists.items()}


def _lists(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found
