"""One event of one connection on its way through an unchanged ASGI application.

The application runs for the one message, and is told by StopConsumer that there are no more. Channels' consumers get
their attributes of the last event back first, and those of this one are kept.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from serverless.websockets import state
from serverless.websockets.errors import OutboxFullError, StateTooLargeError, UnsupportedError, WebsocketsError

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What connect() may send before the client's first message.
MOST_WAITING = 10
MOST_WAITING_BYTES = 256 << 10
#: A handler that sends to its own group would otherwise go on for ever, within one call.
MOST_NESTED = 4

#: The event that the code which asks is part of.
current: ContextVar[Dispatch | None] = ContextVar("websockets_dispatch", default=None)

_told: set[tuple[str, str]] = set()


class Dispatch:
    """One message to the application.

    post: sends text to the socket. close: ends it. kept: the consumer's state as it was saved, JSON.
    is_connecting: what it sends must wait, since API Gateway has not opened the socket yet.
    is_over: the socket has closed, and nothing can be sent.

    Afterwards: accepted is the application's websocket.accept or None, is_closed whether it asked to close, outbox what
    waits, scope the scope as the consumer saw it, state what is to be kept, JSON.
    """

    def __init__(
        self,
        layer: object,
        connection_id: str,
        *,
        post: Callable[[str], Awaitable[None]],
        close: Callable[[], Awaitable[None]],
        kept: str = "{}",
        is_connecting: bool = False,
        is_over: bool = False,
    ) -> None:
        self.layer = layer
        self.connection_id = connection_id
        self.accepted: Message | None = None
        self.is_closed = is_over
        self.outbox: list[str] = []
        self.scope: Scope | None = None
        self.state = kept
        self._post = post
        self._close = close
        self._is_connecting = is_connecting
        outer: Dispatch | None = current.get()
        self._nested: int = 0 if outer is None else outer._nested + 1

    async def run(self, application: Application, scope: Scope, message: Message) -> None:
        """Raises what the application raises."""
        if self._nested > MOST_NESTED:
            raise WebsocketsError(
                f'message "{message.get("type")}" is {self._nested} deep: each was sent by the handler of the one '
                "before. Here the sender runs the handlers, so a handler must not send to a group that it is in "
                "without an end."
            )
        left = [message]

        async def receive() -> Message:
            if left:
                return left.pop()
            raise StopConsumer

        _teach_consumers()
        token = current.set(self)
        try:
            await application(scope, receive, self._send)
        except StopConsumer:
            # An application of another kind than Channels' consumers lets it pass.
            pass
        finally:
            current.reset(token)

    async def _send(self, message: Message) -> None:
        """What the application calls to reach the client."""
        kind = message["type"]
        if kind == "websocket.accept":
            if not self._is_connecting:
                raise UnsupportedError(
                    "accept() outside connect(): API Gateway opens the socket when $connect is answered. "
                    "Accept or close in connect()."
                )
            self.accepted = message
        elif kind == "websocket.close":
            # The client cannot be told a code: API Gateway has no way to choose one.
            if not self._is_connecting and not self.is_closed:
                await self._close()
            self.is_closed = True
        elif kind == "websocket.send":
            await self._send_text(message)
        else:
            raise UnsupportedError(f'"{kind}" is no message to a socket: accept, send or close.')

    async def _send_text(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            raise UnsupportedError(
                "a binary message: API Gateway sends text only. Send base64, or an address to fetch."
            )
        if self.is_closed:
            return
        if not self._is_connecting:
            await self._post(text)
            return
        waiting_bytes = sum(len(waiting.encode()) for waiting in (*self.outbox, text))
        if len(self.outbox) == MOST_WAITING or waiting_bytes > MOST_WAITING_BYTES:
            raise OutboxFullError(
                f"connect() sends {len(self.outbox) + 1} messages of {waiting_bytes} bytes: they wait until the client "
                f"has sent its first, and at most {MOST_WAITING} of {MOST_WAITING_BYTES} bytes do. "
                "Let the client ask when it has connected, and answer that."
            )
        self.outbox.append(text)

    # The consumer

    async def resume(self, consumer: Any, scope: Scope, go_on: Callable[[], Awaitable[None]]) -> None:
        """Run a consumer with the attributes that it had, and note those that it has then."""
        if self.scope is not None:
            # A consumer within a consumer: the outer one's attributes are the connection's.
            await go_on()
            return
        self.scope = scope
        fresh, made = dict(consumer.__dict__), state.pieces(consumer.__dict__)
        consumer.__dict__.update(state.attributes(self.state))
        await go_on()
        now = state.pieces(consumer.__dict__)
        for name, value in consumer.__dict__.items():
            if name not in now and name not in state.NOT_STATE and fresh.get(name) is not value:
                _tell_once(type(consumer), name, value)
        # What __init__ sets anew each time is not kept: the next release may set it to something else.
        kept = {name: piece for name, piece in now.items() if made.get(name) != piece}
        text = state.text(kept)
        if len(text) > state.MOST_BYTES:
            raise StateTooLargeError(type(consumer).__qualname__, len(text), state.MOST_BYTES)
        self.state = text


def _teach_consumers() -> None:
    """Let Channels' consumers ask, when they are called, whether they serve an event. Elsewhere nothing changes.

    The application makes a consumer anew for each event, in a closure, and nobody else sees it: this is the one place
    where its attributes can be given back.
    """
    original = AsyncConsumer.__call__
    if hasattr(original, "resumes"):
        return

    @functools.wraps(original)
    async def call(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        dispatch = current.get()
        if dispatch is None:
            await original(self, scope, receive, send)
        else:
            await dispatch.resume(self, scope, lambda: original(self, scope, receive, send))

    call.resumes = True  # type: ignore[attr-defined]
    AsyncConsumer.__call__ = call


def _tell_once(kind: type, name: str, value: object) -> None:
    """A warning a process, not an event."""
    if (kind.__qualname__, name) in _told:
        return
    _told.add((kind.__qualname__, name))
    log.warning(
        "consumer %s: attribute %s is a %s, which JSON does not give back as it was; the next event will not have it. "
        "Keep its key in self instead.",
        kind.__qualname__,
        name,
        type(value).__qualname__,
    )
