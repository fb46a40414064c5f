"""A WebSocket API of API Gateway, as its function and its senders see it: events, a table, and `@connections`.

moto answers 200 for connections that it has never seen, so `@connections` is played here, by AWS's documentation.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from channels.layers import get_channel_layer

from serverless import aws
from serverless.websockets import table
from serverless.websockets.gateway import Gateway
from serverless.websockets.layer import GatewayChannelLayer
from tests.lambda_events import recorded

STAGE = "dev"
ERRORS = {
    403: "ForbiddenException",
    410: "GoneException",
    413: "PayloadTooLargeException",
    429: "LimitExceededException",
    500: "InternalServerError",
}


class Connections:
    """The `@connections` API of one stage.

    answers: the status that requests about a connection get instead of 200. lost: connections whose requests are carried
    out, and whose answers never come. hung: those whose requests wait until `release` is set. at_once, most_at_once: how
    many requests are in hand.
    """

    def __init__(self) -> None:
        self.posts: list[tuple[str, str]] = []
        self.closed: list[str] = []
        self.requests: dict[str, int] = defaultdict(int)
        self.answers: dict[str, int] = {}
        self.lost: set[str] = set()
        self.hung: set[str] = set()
        self.release = threading.Event()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/{STAGE}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def texts(self, connection_id: str) -> list[str]:
        return [text for posted, text in self.posts if posted == connection_id]

    def _answer(self, method: str, connection_id: str, body: bytes) -> int | None:
        """The status of the answer; None: there is none."""
        with self._lock:
            self.requests[connection_id] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if connection_id in self.hung:
                self.release.wait(30)
            if connection_id in self.answers:
                return self.answers[connection_id]
            if method == "POST" and len(body) > 128 * 1024:
                return 413
            with self._lock:
                if method == "POST":
                    self.posts.append((connection_id, body.decode()))
                else:
                    self.closed.append(connection_id)
            return None if connection_id in self.lost else {"POST": 200, "DELETE": 204}[method]
        finally:
            with self._lock:
                self.at_once -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                prefix, _, connection_id = self.path.partition("/@connections/")
                assert prefix == f"/{STAGE}"
                status = api._answer(self.command, unquote(connection_id), body)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                if status in ERRORS:
                    self.send_header("x-amzn-errortype", ERRORS[status])
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_DELETE = do_POST  # noqa: N815 - http.server's name

            def log_message(self, *_: Any) -> None: ...

        return Handler


def event(name: str, connection_id: str, **fields: Any) -> dict[str, Any]:
    """A recorded event, of another connection. fields: of the event, or of its requestContext."""
    made = recorded(f"websocket_{name}")
    context = made["requestContext"]
    context["connectionId"] = connection_id
    for key, value in fields.items():
        (context if key in context else made)[key] = value
    return made


def connect_event(
    connection_id: str, path: str, *, query: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    asked, sent = {"path": path, **(query or {})}, recorded("websocket_connect")["headers"] | (headers or {})
    return event(
        "connect",
        connection_id,
        queryStringParameters=asked,
        multiValueQueryStringParameters={name: [value] for name, value in asked.items()},
        headers=sent,
        multiValueHeaders={name: [value] for name, value in sent.items()},
    )


class Socket:
    """One client of the API."""

    def __init__(self, api: Api) -> None:
        self.api = api
        # As API Gateway makes them: 16 characters that end in "=".
        self.id = base64.b64encode(secrets.token_bytes(11)).decode()

    async def connect(self, path: str, **options: Any) -> dict[str, Any]:
        return await self.api.gateway.handle(connect_event(self.id, path, **options))

    async def say(self, content: Any) -> dict[str, Any]:
        return await self.api.gateway.handle(event("message", self.id, body=json.dumps(content)))

    async def say_text(self, text: str) -> dict[str, Any]:
        return await self.api.gateway.handle(event("message", self.id, body=text))

    async def leave(self, code: int = 1001) -> dict[str, Any]:
        return await self.api.gateway.handle(event("disconnect", self.id, disconnectStatusCode=code))

    def received(self) -> list[Any]:
        """What was posted to it so far."""
        return [json.loads(text) for text in self.api.connections.texts(self.id)]


class Api:
    """Its function is called directly; its table is in the local cloud."""

    def __init__(self, layer: GatewayChannelLayer, connections: Connections) -> None:
        self.layer = layer
        self.connections = connections
        self.gateway = Gateway(layer)

    def socket(self) -> Socket:
        return Socket(self)

    async def connected(self, path: str) -> Socket:
        socket = self.socket()
        assert (await socket.connect(path))["statusCode"] == 200
        return socket

    def rows(self) -> set[tuple[str, str]]:
        """All keys of the table."""
        found = self.layer.table.client().scan(TableName=self.layer.table.name, ConsistentRead=True)["Items"]
        return {(row["pk"]["S"], row["sk"]["S"]) for row in found}


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_table() -> str:
    """A new table in the local cloud; its name."""
    name = f"sockets-{secrets.token_hex(4)}"
    client = aws.client("dynamodb")
    client.create_table(**table.definition(name))
    client.update_time_to_live(
        TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": table.TTL_ATTRIBUTE}
    )
    return name


@contextmanager
def running_api(settings: Any, application: str, **options: Any) -> Iterator[Api]:
    """The API, and Django's settings for it. Needs the `cloud` fixture.

    application: dotted path. options: of the layer.
    """
    connections = Connections()
    config = {"table": make_table(), "endpoint_url": connections.url, "application": application, **options}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "serverless.websockets.layer.GatewayChannelLayer", "CONFIG": config}
    }
    try:
        layer = get_channel_layer()
        assert isinstance(layer, GatewayChannelLayer)
        yield Api(layer, connections)
    finally:
        connections.close()
