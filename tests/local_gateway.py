"""A running local gateway, the function behind it, and clients that may be as unfriendly as a test needs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import boto3
from botocore.config import Config
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from serverless.local.gateway.limits import Limits
from serverless.local.gateway.server import Server

STAGE = "local"
#: After which a test that waits has failed.
PATIENCE_SECONDS = 60.0


class Recorder:
    """A function that keeps its events and answers as it is told.

    answers: by route, what it returns; or what is called with the event, and may raise.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}

    def __call__(self, event: dict[str, Any], context: object) -> Any:
        self.events.append(event)
        answer = self.answers.get(event["requestContext"]["routeKey"], {"statusCode": 200})
        return answer(event) if callable(answer) else answer

    def of(self, route: str, connection_id: str = "") -> list[dict[str, Any]]:
        contexts = [(event, event["requestContext"]) for event in list(self.events)]
        return [
            event
            for event, context in contexts
            if context["routeKey"] == route and connection_id in ("", context["connectionId"])
        ]

    def last(self, route: str) -> dict[str, Any]:
        """The requestContext of the last such event."""
        return self.of(route)[-1]["requestContext"]


class Gateway:
    """In a thread of this process. port: of the server; 0 before it has started."""

    def __init__(self, handler: Callable[[Any, Any], Any], limits: Limits) -> None:
        self.handler = handler
        self.limits = limits
        self.loop = asyncio.new_event_loop()
        self.server: Server | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._start())

    async def _start(self) -> None:
        self.server = Server(self.handler, STAGE, self.limits)
        await self.server.start()

    def _do(self, work: Any, seconds: float = PATIENCE_SECONDS) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    @property
    def url(self) -> str:
        """Of `@connections`."""
        return f"http://127.0.0.1:{self.port}/{STAGE}"

    def count(self) -> int:
        """Of open sockets."""
        assert self.server is not None
        return len(self.server.connections)

    def client(self, **options: Any) -> Client:
        return Client(self.port, **options)

    def connections(self) -> Any:
        return connections_api(self.url)

    def stop(self, seconds: float = 10.0) -> None:
        if self.server is not None:
            self._do(self.server.stop(seconds))
            self.server = None
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE_SECONDS)
            self.loop.close()


@contextmanager
def running(handler: Callable[[Any, Any], Any], **limits: Any) -> Iterator[Gateway]:
    made = Gateway(handler, Limits(**limits))
    try:
        yield made
    finally:
        made.stop()


def connections_api(url: str) -> Any:
    """boto3's client, without repetitions."""
    return boto3.client(
        "apigatewaymanagementapi",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE_SECONDS),
    )


class Client:
    """A WebSocket client that blocks.

    target: path and query. headers: beside those of the handshake; a name of theirs takes its place, None leaves it out.
    buffer_bytes: of the operating system's for what is received; 0: its own choice.
    """

    def __init__(
        self,
        port: int,
        *,
        target: str = f"/{STAGE}",
        headers: dict[str, str | None] | None = None,
        method: str = "GET",
        buffer_bytes: int = 0,
        is_waiting: bool = True,
    ) -> None:
        self.socket = socket.socket()
        if buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        sent = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **(headers or {}),
        }
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in sent.items() if value is not None),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: Any = None
        self.closed: tuple[int, str] | None = None
        self.frames = 0
        self._events: list[Event] = []
        self._protocol = Connection(ConnectionType.CLIENT)
        if is_waiting:
            self.read_answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_answer(self) -> None:
        """The answer to the handshake."""
        head, _, rest = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if self.status == 101:
            self._protocol.receive_data(rest)
            return
        while len(rest) < int(self.headers.get("content-length", 0)):
            rest += self.socket.recv(65536)
        self.body = json.loads(rest) if rest else None

    def _until(self, end: bytes) -> bytes:
        data = b""
        while end not in data:
            more = self.socket.recv(65536)
            assert more, f"the server hung up after {data!r}"
            data += more
        return data

    def send(self, text: str, frames: Sequence[str] = ()) -> None:
        """frames: in which it is sent instead of one."""
        parts = list(frames) or [text]
        for number, part in enumerate(parts):
            self._write(TextMessage(data=part, message_finished=number == len(parts) - 1))

    def send_event(self, event: Event) -> None:
        self._write(event)

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _write(self, event: Event) -> None:
        self.socket.sendall(self._protocol.send(event))

    def receive(self) -> str | None:
        """The next message; None when it was closed, see `closed`."""
        text = ""
        while True:
            event = self._next()
            if event is None:
                return None
            if isinstance(event, TextMessage):
                text += event.data
                self.frames += event.frame_finished
                if event.message_finished:
                    return text

    def receive_json(self) -> Any:
        text = self.receive()
        assert text is not None, f"it was closed: {self.closed}"
        return json.loads(text)

    def pong(self, payload: bytes = b"") -> bytes:
        """Send a ping, and wait for its answer."""
        answer = self.ping(payload)
        assert answer is not None, f"it was closed: {self.closed}"
        return answer

    def ping(self, payload: bytes = b"") -> bytes | None:
        """As pong(); None when it was closed."""
        self._write(Ping(payload))
        while not isinstance(event := self._next(), Pong):
            if event is None:
                return None
        return bytes(event.payload)

    def end(self) -> tuple[int, str]:
        """Wait until the server closes it; code and reason, (1006, "") where it just hung up."""
        while self.receive() is not None:
            pass
        assert self.closed is not None
        return self.closed

    def close(self, code: int = 1000, reason: str = "") -> tuple[int, str]:
        """Close it as a client should."""
        self._write(CloseConnection(code=code, reason=reason))
        return self.end()

    def vanish(self) -> None:
        """As a client whose network is gone, and whose operating system knows."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def _next(self) -> Event | None:
        while not self._events:
            if self.closed is not None:
                return None
            self._events.extend(self._protocol.events())
            if self._events:
                break
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = (1006, "")
                return None
            self._protocol.receive_data(data)
        event = self._events.pop(0)
        if isinstance(event, CloseConnection):
            self.closed = (int(event.code), event.reason or "")
            if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                try:
                    self._write(event.response())
                except OSError:
                    pass
            return None
        return event


def masked(first_byte: int, payload: bytes, length: bytes | None = None) -> bytes:
    """A raw frame of a client, masked with zeros. length: its bytes as they should be sent, however wrong."""
    if length is None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([first_byte]) + length + b"\0\0\0\0" + payload


def keeping(event: dict[str, Any], context: object) -> dict[str, int]:
    """A function for a gateway of another process: it keeps its events, a line each, in the file KEPT_EVENTS."""
    with open(os.environ["KEPT_EVENTS"], "a") as file:
        file.write(json.dumps(event) + "\n")
    if os.environ.get("HANGS_AT") == event["requestContext"]["routeKey"]:
        threading.Event().wait(PATIENCE_SECONDS)
    return {"statusCode": 200}
