"""The gateway itself: one port, on which clients open sockets and backends call `@connections`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import h11
from wsproto.utilities import generate_accept_token

from serverless.local.gateway import events
from serverless.local.gateway.connections import Connections
from serverless.local.gateway.events import Client, Moment
from serverless.local.gateway.front import Answer, BadRequestError, Front, Request
from serverless.local.gateway.invoking import Function, FunctionError, Handler
from serverless.local.gateway.limits import Limits
from serverless.local.gateway.sockets import ABNORMAL, GOING_AWAY, BufferFullError, Socket

log = logging.getLogger(__name__)

_FORBIDDEN = Answer(403, {"message": "Forbidden"}, error="ForbiddenException")
#: Of the time to stop, how long clients may take to say goodbye; the rest is for what $disconnect does.
_GOODBYE_SHARE = 0.2


class Server:
    """Belongs to the event loop that starts it.

    handler: the function, called in threads. stage: of the API, which all addresses begin with.
    """

    def __init__(self, handler: Handler, stage: str = "local", limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.connections = Connections(self.limits)
        self.port = 0
        self._stage = stage
        self._function = Function(handler, self.limits.function_seconds)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Of them, those that serve sockets, ask for one, or pass a message on.
        self._at_work: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        """Listen. Raises OSError if the port is in use. port: 0 takes a free one."""
        self._server = await asyncio.start_server(self._accept, host, port, backlog=1024, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, seconds: float) -> None:
        """Close all sockets as API Gateway does, and wait so long for what $disconnect does."""
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
        for task in self._tasks - self._at_work:
            task.cancel()
        for socket in self.connections:
            socket.close(GOING_AWAY, seconds * _GOODBYE_SHARE)
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=seconds)
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._function.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._serve(reader, writer))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        # The event loop itself forgets tasks that nobody holds.
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._at_work.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        front = Front(reader, writer)
        try:
            await self._converse(front, reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        except BadRequestError as error:
            try:
                await front.answer(Answer(error.status, {"message": str(error)}))
            except ConnectionError:
                pass
        except Exception:
            # One connection's trouble is no other's.
            log.exception("a connection to the gateway failed")
        finally:
            writer.close()
            # What a client never reads would keep the connection for ever.
            asyncio.get_running_loop().call_later(self.limits.close_seconds, writer.transport.abort)

    async def _converse(self, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        patience, goes_on = self.limits.handshake_seconds, True
        while goes_on:
            async with asyncio.timeout(patience):
                request = await front.request()
            if request is None:
                return
            if request.is_upgrade:
                await self._open(request, front, reader, writer)
                return
            goes_on = await front.answer(self._answer(request))
            patience = self.limits.keep_alive_seconds

    def _answer(self, request: Request) -> Answer:
        """To anything but a client that asks for a socket."""
        prefix = f"/{self._stage}/@connections/"
        if request.path.startswith(prefix):
            return self.connections.answer(request, request.path[len(prefix) :])
        if request.path.rstrip("/") == f"/{self._stage}":
            return Answer(426, {"message": "Upgrade Required"})
        return _FORBIDDEN

    async def _open(
        self, request: Request, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Ask the function whether the client may have its socket, and serve it."""
        if (task := asyncio.current_task()) is not None:
            self._at_work.add(task)
        refusal = self._refusal(request)
        if refusal is not None:
            await front.answer(refusal)
            return
        client = Client(
            # As AWS's: 16 characters that end in "=".
            connection_id=base64.urlsafe_b64encode(secrets.token_bytes(11)).decode(),
            stage=self._stage,
            domain=request.header("host"),
            address=request.address,
            user_agent=request.header("user-agent") or None,
            connected_at=time.time(),
        )
        moment = _moment()
        trace_id = f"Root=1-{int(moment.now):08x}-{secrets.token_hex(12)}"
        try:
            answer = await self._function.invoke(
                events.connect(client, request.headers, request.query, moment, trace_id)
            )
        except FunctionError as error:
            await front.answer(Answer(error.status, _trouble(error.message, client, moment)))
            return
        status = answer["statusCode"]
        if not 200 <= status <= 299:
            shown = "Forbidden" if status in (401, 403) else "Internal server error" if status >= 500 else "Refused"
            await front.answer(Answer(status, _trouble(shown, client, moment)))
            return
        socket = Socket(client, reader, writer, self.limits, self._on_message)
        ending = ABNORMAL
        try:
            front.switch(_handshake(request, answer))
            self.connections.add(socket)
            if self._is_stopping:
                socket.close(GOING_AWAY)
            ending = await socket.run(front.left)
        except h11.LocalProtocolError:
            log.error("the function chose a subprotocol that cannot stand in a header; return one that was offered")
        finally:
            self.connections.remove(socket)
            writer.close()
        await self._tell(events.disconnect(client, *ending, _moment()))

    def _refusal(self, request: Request) -> Answer | None:
        if request.path.rstrip("/") != f"/{self._stage}":
            return _FORBIDDEN
        if len(request.path) + len(request.query) >= self.limits.address_characters:
            return Answer(414, {"message": "Request-URI Too Long"})
        if request.header("sec-websocket-version") != "13":
            return Answer(426, {"message": "Upgrade Required"})
        tokens = [token.strip().lower() for token in request.header("connection").split(",")]
        if request.method != "GET" or "upgrade" not in tokens or not _is_key(request.header("sec-websocket-key")):
            return Answer(400, {"message": "Bad Request"})
        return None

    def _on_message(self, socket: Socket, text: str) -> asyncio.Task[None]:
        task = self._start(self._pass_on(socket, text))
        self._at_work.add(task)
        return task

    async def _pass_on(self, socket: Socket, text: str) -> None:
        moment = _moment()
        message_id = base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()
        trouble = ""
        try:
            answer = await self._function.invoke(events.message(socket.client, text, moment, message_id))
            if answer["statusCode"] >= 500:
                trouble = "Internal server error"
        except FunctionError as error:
            trouble = error.message
        if trouble and socket.is_open:
            try:
                socket.send(json.dumps(_trouble(trouble, socket.client, moment)))
            except BufferFullError:
                pass

    async def _tell(self, event: dict[str, Any]) -> None:
        """Best effort: nobody waits for the answer, and it is not repeated."""
        try:
            await self._function.invoke(event)
        except FunctionError:
            pass


def _moment() -> Moment:
    return Moment(time.time(), base64.urlsafe_b64encode(secrets.token_bytes(11)).decode())


def _trouble(message: str, client: Client, moment: Moment) -> dict[str, str]:
    """As API Gateway words it, in answers and in frames."""
    return {"message": message, "connectionId": client.connection_id, "requestId": moment.request_id}


def _handshake(request: Request, answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headers of the answer that opens the socket. Of the function's, API Gateway passes on the subprotocol."""
    key = request.header("sec-websocket-key").encode()
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    headers.append(("Sec-WebSocket-Accept", generate_accept_token(key).decode()))
    chosen = [
        str(value)
        for name, value in (answer.get("headers") or {}).items()
        if str(name).lower() == "sec-websocket-protocol"
    ]
    return headers + [("Sec-WebSocket-Protocol", value) for value in chosen]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
