"""What a Lambda function calls with the events of a WebSocket API: each goes through the ASGI application."""

from __future__ import annotations

import logging
import time
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from serverless.websockets import events, scopes
from serverless.websockets.dispatching import Dispatch
from serverless.websockets.errors import OptionError, RequestError
from serverless.websockets.events import Event, Kind
from serverless.websockets.layer import GatewayChannelLayer
from serverless.websockets.table import Connection

log = logging.getLogger(__name__)

Answer = dict[str, Any]


class Gateway:
    """Answers the events of one WebSocket API: `$connect`, `$default` and `$disconnect`.

    What the application raises is logged and answered with 500; the connection goes on, and so do all others.
    """

    def __init__(self, layer: GatewayChannelLayer) -> None:
        self._layer = layer

    @classmethod
    def from_settings(cls, alias: str = "default") -> Gateway:
        """On the layer of that name in Django's CHANNEL_LAYERS. Raises OptionError if it is another kind of layer."""
        from channels.layers import get_channel_layer

        layer = get_channel_layer(alias)
        if not isinstance(layer, GatewayChannelLayer):
            raise OptionError(
                f'CHANNEL_LAYERS["{alias}"] is a {type(layer).__name__}: events of API Gateway need a '
                f"GatewayChannelLayer. Set its BACKEND to {GatewayChannelLayer.__module__}.GatewayChannelLayer."
            )
        return cls(layer)

    def __call__(self, event: object, context: object = None) -> Answer:
        """The handler of the function. Raises EventError for what no WebSocket API sends."""
        answer: Answer = async_to_sync(self.handle)(event)
        return answer

    async def handle(self, event: object) -> Answer:
        """As __call__, for those who have an event loop."""
        parsed = events.parse(event)
        started = time.perf_counter()
        answer = await self._answer(parsed)
        log.info(
            "websocket %s of connection %s: answered %d in %.0f ms",
            parsed.kind,
            parsed.connection_id,
            answer["statusCode"],
            (time.perf_counter() - started) * 1000,
        )
        return answer

    async def _answer(self, event: Event) -> Answer:
        steps = {Kind.CONNECT: self._connect, Kind.MESSAGE: self._message, Kind.DISCONNECT: self._disconnect}
        try:
            return await steps[event.kind](event)
        except RequestError as error:
            log.warning("websocket %s of connection %s: %s", event.kind, event.connection_id, error)
            return {"statusCode": 400}
        except ChannelFull:
            log.warning("websocket %s of connection %s: it is slow or throttled", event.kind, event.connection_id)
            return {"statusCode": 429}
        except Exception:
            # Never the event itself: it holds cookies, tokens and what people write.
            log.exception("websocket %s of connection %s failed", event.kind, event.connection_id)
            return {"statusCode": 500}

    async def _connect(self, event: Event) -> Answer:
        layer, asked = self._layer, events.scope(event)
        # First of all: connect() adds it to groups, and members without a connection are deleted.
        await layer.in_thread(layer.table.begin, event.connection_id, scopes.keep(asked, asked, None))
        is_open = False
        try:
            answer = await self._ask_to_connect(event, asked)
            is_open = answer["statusCode"] == 200
        finally:
            if not is_open:
                await layer.in_thread(layer.table.forget, event.connection_id)
        return answer

    async def _ask_to_connect(self, event: Event, asked: dict[str, Any]) -> Answer:
        layer = self._layer
        dispatch = Dispatch(layer, event.connection_id, post=_never_text, close=_never, is_connecting=True)
        scope = scopes.with_extension(asked, event.connection_id, is_resumed=False)
        try:
            await dispatch.run(layer.application(), scope, {"type": "websocket.connect"})
        except ValueError as error:
            if not _is_no_route(error):
                raise
            log.warning("websocket CONNECT of connection %s: no route for %r", event.connection_id, asked["path"][:200])
            return {"statusCode": 404}
        if dispatch.accepted is None or dispatch.is_closed:
            return {"statusCode": 403}
        subprotocol = dispatch.accepted.get("subprotocol")
        kept = scopes.keep(asked, dispatch.scope or asked, subprotocol)
        if not await layer.in_thread(layer.table.open, event.connection_id, kept, dispatch.state, dispatch.outbox):
            # The client gave up, and its $disconnect was faster.
            return {"statusCode": 410}
        # Of all headers API Gateway passes on this one.
        return {"statusCode": 200, **({"headers": {"Sec-WebSocket-Protocol": subprotocol}} if subprotocol else {})}

    async def _message(self, event: Event) -> Answer:
        layer = self._layer
        message = events.received(event)
        connection = await self._connection(event)
        if connection is None:
            # Expired or flushed: nobody would push to it again, so its client had better connect anew.
            await layer.in_thread(layer.sockets.close, event.connection_id)
            return {"statusCode": 410}
        if connection.has_outbox:
            await self._empty_outbox(connection)
        await layer.deliver(connection, message)
        return {"statusCode": 200}

    async def _empty_outbox(self, connection: Connection) -> None:
        """Send what connect() sent. What cannot be sent must not keep the client's message from its handler."""
        layer = self._layer
        for text in await layer.in_thread(layer.table.take_outbox, connection.id):
            try:
                await layer.post(connection, text)
            except Exception:
                log.exception("connection %s: what connect() sent was not delivered", connection.id)

    async def _disconnect(self, event: Event) -> Answer:
        layer = self._layer
        try:
            connection = await self._connection(event)
            if connection is not None:
                await layer.deliver(connection, events.disconnected(event), is_over=True)
        finally:
            # Whatever disconnect() left.
            await layer.in_thread(layer.table.forget, event.connection_id)
        return {"statusCode": 200}

    async def _connection(self, event: Event) -> Connection | None:
        found = await self._layer.in_thread(self._layer.table.find, [event.connection_id])
        if found.unread:
            raise ChannelFull(event.connection_id)
        connection = found.connections.get(event.connection_id)
        return connection if connection is not None and connection.is_ready else None


def _is_no_route(error: ValueError) -> bool:
    """Channels' URLRouter has no class of its own for it, apart from Resolver404 where routers are nested."""
    from django.urls import Resolver404

    return isinstance(error, Resolver404) or str(error).startswith("No route found")


async def _never_text(text: str) -> None:
    raise AssertionError("nothing is posted while a connection is made")


async def _never() -> None:
    raise AssertionError("nothing is closed while a connection is made")
