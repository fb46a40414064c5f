"""What AWS makes of an HTTP request before a function sees it, door by door, and of what the function answers.

Pure. Sources: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html,
https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html,
https://docs.aws.amazon.com/lambda/latest/dg/services-alb.html
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl

Json = dict[str, Any]
Headers = list[tuple[str, str]]

_ACCOUNT = "123456789012"
_TEXT = ("text/", "application/json", "application/javascript", "application/xml", "application/x-www-form-urlencoded")


class Door(StrEnum):
    """API Gateway's REST API (v1), its HTTP API (v2), a function URL, a load balancer without and with header lists."""

    REST = "rest"
    HTTP = "http"
    URL = "url"
    ALB = "alb"
    ALB_LISTS = "alb-lists"


@dataclass(frozen=True)
class Request:
    """One as it came in.

    path, query: as they were sent, escaped, the path without the stage. address: of the client.
    stage: of API Gateway; "" where a domain stands for it.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes = b""
    address: str = "203.0.113.7"
    scheme: str = "https"
    stage: str = ""


def event(door: Door, request: Request) -> Json:
    """The event that the function gets."""
    if door in (Door.HTTP, Door.URL):
        return _version_2(request, door)
    return _version_1(request) if door == Door.REST else _load_balancer(request, lists=door == Door.ALB_LISTS)


def answer(told: Json) -> tuple[int, Headers, bytes]:
    """(status, headers, body) that the client gets. Raises ValueError for what AWS would answer with a 502."""
    status = told.get("statusCode")
    if not isinstance(status, int):
        raise ValueError("the function's answer has no statusCode")
    headers = [(name, value) for name, values in (told.get("multiValueHeaders") or {}).items() for value in values]
    headers += [(name, str(value)) for name, value in (told.get("headers") or {}).items()]
    headers += [("set-cookie", value) for value in told.get("cookies", ())]
    body = told.get("body") or ""
    return status, headers, base64.b64decode(body) if told.get("isBase64Encoded") else body.encode()


def _forwarded(request: Request) -> Headers:
    """What every door adds; of the address, behind what the client claims."""
    claimed = [value for name, value in request.headers if name.lower() == "x-forwarded-for"]
    port = "443" if request.scheme == "https" else "80"
    added = {
        "x-forwarded-for": ", ".join([*claimed, request.address]),
        "x-forwarded-proto": request.scheme,
        "x-forwarded-port": port,
        "x-amzn-trace-id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}",
    }
    return [(name, value) for name, value in request.headers if name.lower() not in added] + list(added.items())


def _lists(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _joined(headers: Headers) -> dict[str, str]:
    """One value a name, in lower case; cookies by semicolons, all others by commas."""
    lists = _lists((name.lower(), value) for name, value in headers)
    return {name: ("; " if name == "cookie" else ", ").join(values) for name, values in lists.items()}


def _body(request: Request, headers: dict[str, str]) -> Json:
    """Text as text, all else as base64."""
    if not request.body:
        return {"body": None, "isBase64Encoded": False}
    if headers.get("content-type", "").startswith(_TEXT) and not headers.get("content-encoding"):
        try:
            return {"body": request.body.decode(), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    return {"body": base64.b64encode(request.body).decode(), "isBase64Encoded": True}


def _version_1(request: Request) -> Json:
    headers = _forwarded(request)
    lists = _lists(headers)
    queries = _lists(parse_qsl(request.query, keep_blank_values=True, encoding="utf-8"))
    # With binary media types of */*, as Zappa sets them, every body comes as base64.
    body = {"body": base64.b64encode(request.body).decode() or None, "isBase64Encoded": bool(request.body)}
    return {
        "resource": "/{proxy+}",
        "path": request.path,
        "httpMethod": request.method,
        "headers": {name: values[-1] for name, values in lists.items()},
        "multiValueHeaders": lists,
        "queryStringParameters": {name: values[-1] for name, values in queries.items()} or None,
        "multiValueQueryStringParameters": queries or None,
        "pathParameters": {"proxy": request.path.strip("/")},
        "stageVariables": None,
        "requestContext": {
            "accountId": _ACCOUNT,
            "apiId": "local",
            "httpMethod": request.method,
            "identity": {"sourceIp": request.address, "userAgent": _joined(headers).get("user-agent")},
            "path": f"/{request.stage}{request.path}" if request.stage else request.path,
            "protocol": "HTTP/1.1",
            "requestId": str(uuid.uuid4()),
            "resourcePath": "/{proxy+}",
            "stage": request.stage or "local",
        },
        **body,
    }


def _version_2(request: Request, door: Door) -> Json:
    headers = _joined(_forwarded(request))
    cookies = [each.strip() for each in headers.get("cookie", "").split(";") if each.strip()]
    if door == Door.HTTP:
        # A function URL leaves the header beside the list.
        headers.pop("cookie", None)
    path = f"/{request.stage}{request.path}" if request.stage else request.path
    queries = _lists(parse_qsl(request.query, keep_blank_values=True))
    context = {
        "accountId": _ACCOUNT,
        "apiId": "local",
        "domainName": headers.get("host", ""),
        "http": {
            "method": request.method,
            "path": path,
            "protocol": "HTTP/1.1",
            "sourceIp": request.address,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": str(uuid.uuid4()),
        "routeKey": "$default",
        "stage": request.stage or "$default",
        "timeEpoch": int(time.time() * 1000),
    }
    told = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": request.query,
        **({"cookies": cookies} if cookies else {}),
        "headers": headers,
        "queryStringParameters": {name: ",".join(values) for name, values in queries.items()},
        "requestContext": context,
        **_body(request, headers),
    }
    return {name: value for name, value in told.items() if name != "body" or value is not None}


def _load_balancer(request: Request, *, lists: bool) -> Json:
    headers = [(name.lower(), value) for name, value in _forwarded(request)]
    # It hands the query on as it came, without unescaping it.
    pairs = [pair.partition("=")[::2] for pair in request.query.split("&") if pair]
    single = _joined(headers)
    told: Json = {
        "requestContext": {
            "elb": {
                "targetGroupArn": f"arn:aws:elasticloadbalancing:us-east-1:{_ACCOUNT}:targetgroup/local/0123456789ab"
            }
        },
        "httpMethod": request.method,
        "path": request.path,
        **{name: value or "" for name, value in _body(request, single).items()},
    }
    told["isBase64Encoded"] = bool(told["isBase64Encoded"])
    if lists:
        return {**told, "multiValueHeaders": _lists(headers), "multiValueQueryStringParameters": _lists(pairs)}
    return {**told, "headers": single, "queryStringParameters": dict(pairs)}
