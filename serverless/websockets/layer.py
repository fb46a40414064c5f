"""A Channels layer for sockets that no process holds: API Gateway has the socket, DynamoDB the membership, and whoever
sends runs the consumer's handler and posts what it answers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from serverless import aws
from serverless.websockets import names, scopes
from serverless.websockets.calls import Timeouts, in_thread, is_throttled
from serverless.websockets.dispatching import Application, Dispatch, current
from serverless.websockets.errors import MessageError, OptionError
from serverless.websockets.sockets import Sockets
from serverless.websockets.table import LIFETIME_SECONDS, READ_BATCH, Connection, Table

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class GatewayChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """CONFIG of CHANNEL_LAYERS:

    table: the DynamoDB table, as table.definition() describes it.
    endpoint_url: where `@connections` is: https://ID.execute-api.REGION.amazonaws.com/STAGE. A worker cannot guess it.
    application: the ASGI application, as a dotted path; None: ASGI_APPLICATION of Django's settings.
    group_expiry: seconds until a membership that is not renewed ends; at most a connection's life, the default.
    max_concurrency: how many viewers one group_send serves at once, and how many threads call AWS.
    connect_timeout, read_timeout: seconds, of one request. retries: how often it is repeated after it failed.
    grace_seconds: so long after `$connect` a socket that is gone may only be one that is not open yet.
    dynamodb_endpoint_url: of the table; None: as the environment says.
    capacity, channel_capacity, expiry: taken and not used, since nothing queues here.

    Safe from many event loops, threads and forked children: it holds no connection and nothing of a loop.
    """

    extensions = ["groups", "flush"]

    def __init__(
        self,
        *,
        table: str,
        endpoint_url: str,
        application: str | Application | None = None,
        group_expiry: float = LIFETIME_SECONDS,
        max_concurrency: int = 32,
        connect_timeout: float = 1.0,
        read_timeout: float = 2.0,
        retries: int = 1,
        grace_seconds: float = 30.0,
        dynamodb_endpoint_url: str | None = None,
        expiry: int = 60,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity, channel_capacity=channel_capacity)
        _check("table", table, bool(table), "a name", 'Set it to the table\'s, such as "cloudqueue-sockets".')
        is_url = endpoint_url.startswith(("https://", "http://"))
        remedy = "Set it to https://ID.execute-api.REGION.amazonaws.com/STAGE."
        _check("endpoint_url", endpoint_url, is_url, "an http address", remedy)
        for name, value in (("group_expiry", group_expiry), ("read_timeout", read_timeout)):
            _check(name, value, value > 0, "more than 0 seconds", "Leave it out for the default.")
        _check("connect_timeout", connect_timeout, connect_timeout > 0, "more than 0 seconds", "Leave it out for 1.")
        _check("max_concurrency", max_concurrency, max_concurrency > 0, "1 or more", "Leave it out for 32.")
        _check("retries", retries, retries >= 0, "0 or more", "Leave it out for 1.")
        timeouts = Timeouts(connect_timeout, read_timeout, retries)
        self.sockets = Sockets(endpoint_url, timeouts, max_concurrency)
        self.table = Table(table, timeouts, max_concurrency, endpoint_url=dynamodb_endpoint_url, now=now)
        self.group_expiry = min(group_expiry, LIFETIME_SECONDS)
        self.max_concurrency = max_concurrency
        self.grace_seconds = grace_seconds
        self._application = application
        self._now = now

    def warm_up(self) -> None:
        """Build the clients and import the application now: 0.2 to 2 s, which the first push would wait for."""
        self.table.client()
        self.sockets.client()
        self.application()

    def application(self) -> Application:
        """What runs the consumers; imported when it is first needed, since it imports what asks for this layer."""
        from channels.routing import get_default_application
        from django.utils.module_loading import import_string

        if self._application is None:
            self._application = get_default_application()
        elif isinstance(self._application, str):
            self._application = import_string(self._application)
        loaded: Any = self._application
        return loaded  # type: ignore[no-any-return]

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """The channel of the connection whose event runs; elsewhere a name at which nothing ever arrives."""
        dispatch = current.get()
        if dispatch is not None and dispatch.layer is self:
            return names.channel_name(dispatch.connection_id)
        return f"{prefix.rstrip('.')}.nowhere!{os.urandom(12).hex()}"

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Run the handler of one connection's consumer. One that is gone is no error.

        Raises ChannelFull if AWS throttles or the client reads too slowly, MessageTooLarge if the handler sends more
        than API Gateway passes on, and boto3's errors. Other errors of the handler are logged.
        """
        _check_message(message)
        self.require_valid_channel_name(channel)
        connection_id = names.connection_id(channel)
        try:
            found = await self.in_thread(self.table.find, [connection_id])
            if found.unread:
                raise ChannelFull(channel)
            connection = found.connections.get(connection_id)
            if connection is not None and connection.is_ready:
                await self.deliver(connection, message)
        except (ChannelFull, MessageTooLarge):
            raise
        except aws.ERRORS as error:
            if is_throttled(error):
                raise ChannelFull(channel) from error
            raise
        except Exception:
            log.exception("message %s to connection %s: its handler failed", message.get("type"), connection_id)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Waits for ever: messages are handed to consumers by their sender, and nothing queues."""
        self.require_valid_channel_name(channel)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody ends that future")

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self.in_thread(self.table.join, group, names.connection_id(channel), self.group_expiry)

    async def group_discard(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self.in_thread(self.table.leave, group, names.connection_id(channel))

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Run the handler of every member's consumer, at most once each.

        What one member's delivery raises is logged and stops no other. Where DynamoDB throttles, the rest of the group
        is passed over, as in any layer whose channels are full. Raises boto3's other errors.
        """
        _check_message(message)
        self.require_valid_group_name(group)
        # Of this call and its loop alone.
        limit = asyncio.Semaphore(self.max_concurrency)
        start: dict[str, Any] | None = None
        try:
            while True:
                ids, start = await self.in_thread(self.table.members, group, start)
                for first in range(0, len(ids), READ_BATCH):
                    await self._send_to(group, ids[first : first + READ_BATCH], message, limit)
                if not start:
                    return
        except aws.ERRORS as error:
            if not is_throttled(error):
                raise
            log.warning("message %s to group %s: dropped, DynamoDB throttles: %s", message.get("type"), group, error)

    async def _send_to(self, group: str, ids: list[str], message: Mapping[str, Any], limit: asyncio.Semaphore) -> None:
        found = await self.in_thread(self.table.find, ids)
        if found.unread:
            log.warning(
                "message %s to group %s: %d members not read, dropped", message.get("type"), group, len(found.unread)
            )
        ready = [connection for connection in found.connections.values() if connection.is_ready]
        await asyncio.gather(*(self._send_to_one(group, connection, message, limit) for connection in ready))
        await self._leave_behind(group, set(ids) - set(found.connections) - found.unread)

    async def _send_to_one(
        self, group: str, connection: Connection, message: Mapping[str, Any], limit: asyncio.Semaphore
    ) -> None:
        async with limit:
            try:
                await self.deliver(connection, message)
            except ChannelFull:
                log.info("message %s to group %s: %s is slow, dropped", message.get("type"), group, connection.id)
            except Exception:
                log.exception(
                    "message %s to group %s: delivery to %s failed", message.get("type"), group, connection.id
                )

    async def _leave_behind(self, group: str, gone: Iterable[str]) -> None:
        """Members without a connection: an event of theirs came after their end."""
        ids = sorted(gone)
        if not ids:
            return
        try:
            await self.in_thread(self.table.leave, group, *ids)
        except Exception:
            log.exception("group %s: %d members that are gone were not deleted", group, len(ids))

    # Flush

    async def flush(self) -> None:
        """Delete all connections and groups. Sockets stay open until their next message, which closes them."""
        await self.in_thread(self.table.empty)

    async def close(self) -> None:
        """Nothing is held."""

    # What the gateway uses as well

    async def in_thread(self, work: Callable[..., _Answer], *arguments: Any) -> _Answer:
        return await in_thread(self.max_concurrency, work, *arguments)

    async def post(self, connection: Connection, text: str) -> None:
        """Send text to a socket. One that is gone is forgotten, unless it may just not be open yet.

        API Gateway opens a socket after `$connect` was answered, and answers 410 until then.
        """
        if await self.in_thread(self.sockets.post, connection.id, text):
            return
        if self._now() - connection.connected_at > self.grace_seconds:
            await self.in_thread(self.table.forget, connection.id)

    async def deliver(self, connection: Connection, message: Mapping[str, Any], *, is_over: bool = False) -> None:
        """One message through the application, and the consumer's new state into the table.

        is_over: nothing can be sent any more, and nothing need be kept. Raises what the application raises.
        """
        dispatch = Dispatch(
            self,
            connection.id,
            post=lambda text: self.post(connection, text),
            close=lambda: self.in_thread(self.sockets.close, connection.id),
            kept=connection.state,
            is_over=is_over,
        )
        scope = scopes.with_extension(scopes.restored(connection.scope), connection.id, is_resumed=True)
        # A handler may change what it gets, and each has its own.
        await dispatch.run(self.application(), scope, deepcopy(dict(message)))
        if dispatch.state != connection.state and not is_over:
            await self.in_thread(self.table.save_state, connection.id, dispatch.state)


def _check(name: str, value: object, holds: bool, rule: str, remedy: str) -> None:
    if not holds:
        raise OptionError(f"channel layer: {name}={value!r} is not {rule}. {remedy}")


def _check_message(message: object) -> None:
    if not isinstance(message, dict) or "__asgi_channel__" in message:
        raise MessageError(message)
