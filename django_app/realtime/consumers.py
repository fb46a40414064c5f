"""What happens on a socket. The same for each feed: who watches is asked for anew whenever something is shown.

Behind API Gateway a consumer is made anew for each event, and events of one socket may overlap: nothing is kept here
but what path and scope say, see docs/realtime.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import InterfaceError, OperationalError

from django_app.console import shown
from django_app.realtime import groups, rights
from django_app.realtime.feeds import Content, Feed
from django_app.realtime.rights import Bye
from django_app.realtime.tokens import Claims

log = structlog.get_logger(__name__)

#: Characters of a client's message; ours have thirty.
MOST_CHARACTERS = 1000
#: The key of scope["extensions"] that says that API Gateway has the socket.
_GATEWAY = "aws.websocket"


@dataclass(frozen=True)
class _Reply:
    """content: what is sent, if anything. is_last: the socket is closed then."""

    content: Content | None = None
    is_last: bool = False


def _bye(why: Bye) -> _Reply:
    return _Reply({"type": "bye", "why": why.value}, is_last=True)


class _MessageError(Exception):
    """A client's message has no meaning. Its text is for the client."""


class FeedConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """A socket that shows one feed. made: the feed's class, called with what the path says."""

    def __init__(self, made: Callable[..., Feed]) -> None:
        super().__init__()
        self._made = made
        self.is_over = False

    # The life of a socket

    async def connect(self) -> None:
        if self.channel_layer is None or not await self._may_connect():
            await self.close()
            return
        await asyncio.gather(*(self.channel_layer.group_add(group, self.channel_name) for group in self._groups()))
        await self.accept()

    async def _may_connect(self) -> bool:
        try:
            return bool(await database_sync_to_async(self._admit)())
        except (OperationalError, InterfaceError) as error:
            log.warning("socket_refused", feed=self._feed.kind, reason=f"no database ({type(error).__name__})")
            return False

    async def disconnect(self, code: int) -> None:
        # Behind API Gateway its memberships are deleted with it, all at once.
        if self.channel_layer is not None and _GATEWAY not in self.scope.get("extensions", {}):
            for group in self._groups():
                await self.channel_layer.group_discard(group, self.channel_name)

    # What the client says

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            kind = _read(text_data)
        except _MessageError as error:
            await self._say(_Reply({"type": "error", "why": str(error)}))
            return
        if kind == "ping":
            await self._say(_Reply(is_last=True) if self._claims.is_over() else _Reply({"type": "pong"}))
        elif not await self._ask(self._synchronise):
            why = "The database does not answer. Ask again in a few seconds."
            await self._say(_Reply({"type": "error", "why": why}))

    # What the site says, by realtime.announce

    async def feed_changed(self, message: Mapping[str, Any]) -> None:
        await self._ask(lambda: self._change(message))

    async def rights_changed(self, message: Mapping[str, Any]) -> None:
        """Whoever may still watch connects anew."""
        await self._ask(self._reconsider)

    async def session_ended(self, message: Mapping[str, Any]) -> None:
        await self._say(_bye(Bye(message["why"])))

    # In threads that may speak to the database

    def _admit(self) -> bool:
        user = rights.person(self._claims)
        if user is None or not self._feed.may_watch(user):
            log.info("socket_refused", feed=self._feed.kind, reason="it is not theirs")
            return False
        # Before the client asks for the state: whatever changes from now on is told.
        self._feed.watch()
        return True

    def _synchronise(self) -> _Reply:
        self._feed.watch()
        return self._show(self._feed.snapshot)

    def _change(self, message: Mapping[str, Any]) -> _Reply:
        return self._show(lambda user: self._feed.change(user, message))

    def _reconsider(self) -> _Reply:
        user = rights.person(self._claims)
        if user is None:
            return _bye(Bye.SIGNED_OUT)
        return _Reply(is_last=True) if self._feed.may_watch(user) else self._no_longer()

    def _show(self, look: Callable[[Any], Content | None]) -> _Reply:
        if self._claims.is_over():
            # It is old, and says nothing of the person: they connect anew.
            return _Reply(is_last=True)
        user = rights.person(self._claims)
        if user is None:
            return _bye(Bye.SIGNED_OUT)
        content = look(user)
        return _Reply(content) if content is not None else self._no_longer()

    def _no_longer(self) -> _Reply:
        return _bye(Bye.NOT_ALLOWED if self._feed.is_there() else Bye.GONE)

    # And back

    async def _ask(self, work: Callable[[], _Reply]) -> bool:
        """Send what that gives; False if the database is away, which the socket outlives."""
        if self.is_over:
            return True
        try:
            reply = await database_sync_to_async(work)()
        except (OperationalError, InterfaceError) as error:
            log.warning("socket_without_database", feed=self._feed.kind, error=type(error).__name__)
            return False
        await self._say(reply)
        return True

    async def _say(self, reply: _Reply) -> None:
        # A server that holds the socket goes on handing out messages until it has closed it.
        if self.is_over:
            return
        if reply.content is not None:
            await self.send(text_data=json.dumps(reply.content, separators=(",", ":")))
        if reply.is_last:
            self.is_over = True
            await self.close()

    @property
    def _feed(self) -> Feed:
        return self._made(**self.scope["url_route"]["kwargs"])

    @property
    def _claims(self) -> Claims:
        return Claims.from_json(self.scope["claims"])

    def _groups(self) -> tuple[str, str, str]:
        claims = self._claims
        return self._feed.group, groups.user(claims.user), groups.session(claims.session)


def _read(text: str | None) -> str:
    """What a client's message asks for: "sync" or "ping". Raises _MessageError."""
    if text is None:
        raise _MessageError('The message is binary. Send text: {"type": "sync"} or {"type": "ping"}.')
    if len(text) > MOST_CHARACTERS:
        raise _MessageError(f"The message has {len(text)} characters, more than {MOST_CHARACTERS}. Send fewer.")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise _MessageError('The message is no JSON. Send {"type": "sync"} or {"type": "ping"}.') from None
    kind = told.get("type") if isinstance(told, dict) else None
    if kind not in ("sync", "ping"):
        raise _MessageError(f'type "{shown.plain(kind, 40)}" is neither "sync" nor "ping". Send one of them.')
    return str(kind)
