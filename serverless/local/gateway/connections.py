"""The open sockets, and the `@connections` API by which a backend reaches them.

Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-how-to-call-websocket-api-connections.html
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from serverless.local.gateway.front import Answer, Request
from serverless.local.gateway.limits import Limits
from serverless.local.gateway.sockets import NORMAL, BufferFullError, Socket

_GONE = Answer(410, error="GoneException")


class Connections:
    """Those whose `$connect` has been answered, and that have not ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[str, Socket] = {}

    def __iter__(self) -> Iterator[Socket]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def add(self, socket: Socket) -> None:
        self._open[socket.client.connection_id] = socket

    def remove(self, socket: Socket) -> None:
        self._open.pop(socket.client.connection_id, None)

    def answer(self, request: Request, connection_id: str) -> Answer:
        """To a request about one connection. Never waits for its client."""
        if not request.header("authorization").startswith("AWS4-HMAC-SHA256"):
            # Whose signature it is, nobody asks here; but boto3 always signs, and a page in a browser never does.
            return Answer(403, {"message": "Missing Authentication Token"}, error="MissingAuthenticationTokenException")
        socket = self._open.get(connection_id)
        if request.method not in ("GET", "POST", "DELETE"):
            return Answer(403, {"message": "Forbidden"}, error="ForbiddenException")
        if socket is None or not socket.is_open:
            return _GONE
        if request.method == "POST":
            return self._post(socket, request.body)
        if request.method == "DELETE":
            socket.close(NORMAL)
            return Answer(204)
        return Answer(200, _described(socket))

    def _post(self, socket: Socket, body: bytes) -> Answer:
        if len(body) > self._limits.message_bytes:
            return Answer(413, {"message": "Message too long"}, error="PayloadTooLargeException")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return Answer(400, {"message": "Data is no UTF-8, and only text is sent"}, error="BadRequestException")
        try:
            socket.send(text)
        except BufferFullError:
            return Answer(429, {"message": "The client's buffer is full"}, error="LimitExceededException")
        return Answer(200)


def _described(socket: Socket) -> dict[str, object]:
    client = socket.client
    return {
        "connectedAt": _time(client.connected_at),
        "identity": {"sourceIp": client.address, "userAgent": client.user_agent or ""},
        "lastActiveAt": _time(socket.active_at),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
