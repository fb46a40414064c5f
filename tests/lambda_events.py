"""Events as Lambda sends them: recorded ones from tests/events, and HTTP requests put into each of their shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serverless.local import doors
from serverless.local.doors import Door

EVENTS = Path(__file__).resolve().parent / "events"
#: Every door by which HTTP comes in.
DOORS = {
    "api_gateway_v1": Door.REST,
    "api_gateway_v2": Door.HTTP,
    "function_url": Door.URL,
    "load_balancer": Door.ALB,
    "load_balancer_multi_value": Door.ALB_LISTS,
}


def recorded(name: str) -> dict[str, Any]:
    return json.loads((EVENTS / f"{name}.json").read_text())


class Context:
    """As Lambda's runtime makes it for each invocation."""

    def __init__(self, request_id: str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd", seconds: float = 29.0) -> None:
        self.aws_request_id = request_id
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


def request(
    door: str,
    *,
    method: str = "GET",
    path: str = "/",
    query: str = "",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    stage: str = "",
) -> dict[str, Any]:
    """The event that a request to that door becomes.

    path: as text, unescaped. query: as it stands in the address. stage: of API Gateway, which the client's address has
    and v1 leaves out of the path.
    """
    escaped = quote(path, safe="/:@!$&'()*+,;=-._~")
    host = [] if any(name.lower() == "host" for name, _ in headers) else [("Host", "testserver")]
    asked = doors.Request(method, escaped, query, [*host, *headers], body, stage=stage)
    return doors.event(DOORS[door], asked)


def answered(answer: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
    """(status, headers in lower case, body) of what a client receives for it."""
    status, headers, body = doors.answer(answer)
    return status, [(name.lower(), value) for name, value in headers], body
