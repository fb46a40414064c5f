"""Sockets of the site as their clients have them, over each of the layers that it may run on."""

from __future__ import annotations

import asyncio
import base64
import datetime
import functools
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_app.datasets.models import Chunk, Dataset
from django_app.realtime import pushing, tokens
from django_app.realtime.routing import application
from tests.integration.test_console_access import client_of, person
from tests.websocket_api import Api, Socket, connect_event, event, running_api

PATIENCE_SECONDS = 60
ORIGIN = "http://testserver"
SYNC, PING, PONG = {"type": "sync"}, {"type": "ping"}, {"type": "pong"}


def awaited(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that awaits, in an event loop of its own; what speaks to the database goes through `db`."""

    @functools.wraps(scenario)
    def run(**fixtures: Any) -> None:
        async_to_sync(scenario)(**fixtures)

    return run


async def db(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """In the test's own thread, which has its transaction."""
    return await sync_to_async(work)(*arguments, **named)


@asynccontextmanager
async def queries() -> AsyncIterator[list[str]]:
    """Afterwards those that were made meanwhile."""
    found: list[str] = []
    captured = CaptureQueriesContext(connection)
    await db(captured.__enter__)
    yield found
    await db(captured.__exit__, None, None, None)
    found += await db(lambda: [each["sql"] for each in captured.captured_queries])


def ask_address(client: Client, path: str, **headers: Any) -> Any:
    """The view's answer. path: as it stands in a URL."""
    return client.post(reverse("realtime:address"), {"path": path}, **headers)


def token_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["token"][0]


def issued(client: Client, path: str) -> str:
    """A token for a path of sockets, as a page gets it. path: decoded."""
    answer = ask_address(client, quote(path))
    assert answer.status_code == 200, answer.content
    return token_of(answer.json()["url"])


def signed_in(kind: str, name: str = "") -> tuple[User, Client]:
    user = person(kind, name)
    assert isinstance(user, User)
    # Their groups are new to them, and sockets are closed for that: of those that follow none.
    assert pushing.flush(PATIENCE_SECONDS)
    return user, client_of(user)


def dataset(owner: User, states: str = "", **fields: Any) -> Dataset:
    """With a part for each letter: d done, r running, w waiting."""
    made = Dataset.objects.create(owner=owner, upload_expires_at=timezone.now(), **fields)
    words = {"d": Chunk.State.DONE, "r": Chunk.State.RUNNING, "w": Chunk.State.WAITING}
    Chunk.objects.bulk_create(
        Chunk(dataset=made, index=index, start=0, stop=1, first_line=1, state=words[letter])
        for index, letter in enumerate(states)
    )
    return made


def forged(user: User, client: Client, path: str, **differences: Any) -> str:
    """A token that our own key has signed, whatever the view would say."""
    until = timezone.now() + datetime.timedelta(hours=1)
    told = {"user": user, "session_key": client.session.session_key, "until": until, "path": path, **differences}
    return tokens.issue(**told)


class Visit(ABC):
    """One socket of one client."""

    @abstractmethod
    async def connect(self, path: str, token: str, *, origin: str | None = ORIGIN, query: str = "") -> bool:
        """Whether it was let in. query: instead of the token's."""

    @abstractmethod
    async def say_frame(self, *, text: str | None = None, data: bytes | None = None) -> None: ...

    @abstractmethod
    async def hear(self) -> Any:
        """The next message."""

    @abstractmethod
    async def is_closed(self) -> bool:
        """By the site. Call it when nothing more is to be heard."""

    @abstractmethod
    async def leave(self) -> None: ...

    async def say(self, content: Any) -> None:
        await self.say_frame(text=json.dumps(content))

    async def ask(self, content: Any) -> Any:
        await self.say(content)
        return await self.hear()

    async def hears_nothing(self) -> None:
        """Nothing has come meanwhile: the next message answers a question that is asked now."""
        assert await self.ask(PING) == PONG


class GatewayVisit(Visit):
    def __init__(self, api: Api) -> None:
        self._api = api
        self._socket = Socket(api)
        self._heard = 0

    async def connect(self, path: str, token: str, *, origin: str | None = ORIGIN, query: str = "") -> bool:
        made = connect_event(self._socket.id, path, query={"token": token}, headers={"Origin": origin or ""})
        if query:
            made["multiValueQueryStringParameters"] = {"path": [path], **parse_qs(query, keep_blank_values=True)}
        for headers in (made["headers"], made["multiValueHeaders"]):
            if origin is None:
                headers.pop("Origin")
        status = (await self._api.gateway.handle(made))["statusCode"]
        assert status in (200, 403), status
        return status == 200

    async def say_frame(self, *, text: str | None = None, data: bytes | None = None) -> None:
        body = text if data is None else base64.b64encode(data).decode()
        made = event("message", self._socket.id, body=body)
        made["isBase64Encoded"] = data is not None
        assert (await self._api.gateway.handle(made))["statusCode"] == 200

    async def hear(self) -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self._texts()) <= self._heard:
                await asyncio.sleep(0.02)
        self._heard += 1
        return json.loads(self._texts()[self._heard - 1])

    async def is_closed(self) -> bool:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self._socket.id not in self._api.connections.closed:
                await asyncio.sleep(0.02)
        assert len(self._texts()) == self._heard
        return True

    async def leave(self) -> None:
        await self._socket.leave()

    def _texts(self) -> list[str]:
        return self._api.connections.texts(self._socket.id)


class ServerVisit(Visit):
    """As daphne and uvicorn hold it."""

    def __init__(self) -> None:
        self._communicator: ApplicationCommunicator | None = None

    @property
    def _open(self) -> ApplicationCommunicator:
        assert self._communicator is not None
        return self._communicator

    async def connect(
        self, path: str, token: str, *, origin: str | None = ORIGIN, query: str = "", **scope: Any
    ) -> bool:
        asked = {
            "type": "websocket",
            "path": path,
            "query_string": (query or f"token={quote(token)}").encode(),
            "headers": [] if origin is None else [(b"origin", origin.encode("latin-1"))],
            "subprotocols": [],
            **scope,
        }
        self._communicator = ApplicationCommunicator(application, asked)
        await self._open.send_input({"type": "websocket.connect"})
        answer = await self._open.receive_output(PATIENCE_SECONDS)
        assert answer["type"] in ("websocket.accept", "websocket.close")
        return bool(answer["type"] == "websocket.accept")

    async def say_frame(self, *, text: str | None = None, data: bytes | None = None) -> None:
        await self._open.send_input({"type": "websocket.receive", "text": text, "bytes": data})

    async def hear(self) -> Any:
        answer = await self._open.receive_output(PATIENCE_SECONDS)
        assert answer["type"] == "websocket.send", answer
        return json.loads(answer["text"])

    async def is_closed(self) -> bool:
        return bool((await self._open.receive_output(PATIENCE_SECONDS))["type"] == "websocket.close")

    async def leave(self) -> None:
        await self._open.send_input({"type": "websocket.disconnect", "code": 1001})
        await self._open.wait(PATIENCE_SECONDS)


@dataclass
class House:
    """A layer, and the sockets on it."""

    new_visit: Callable[[], Visit]

    async def visit(self, client: Client, path: str) -> Visit:
        """An open socket of whoever has signed in there."""
        visit = self.new_visit()
        assert await visit.connect(path, await db(issued, client, path))
        return visit


@contextmanager
def on_gateway(settings: Any) -> Iterator[House]:
    """Needs the `cloud` fixture."""
    settings.SOCKETS_URL = "wss://sockets.example/dev"
    with running_api(settings, "django_app.realtime.routing.application") as api:
        yield House(lambda: GatewayVisit(api))


@contextmanager
def in_memory(settings: Any) -> Iterator[House]:
    settings.SOCKETS_URL = "redis://127.0.0.1:1/0"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    yield House(ServerVisit)


@contextmanager
def on_redis(settings: Any, url: str) -> Iterator[House]:
    settings.SOCKETS_URL = url
    config = {"hosts": [{"address": url, "socket_timeout": 30}], "prefix": f"test{secrets.token_hex(4)}"}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": config}
    }
    yield House(ServerVisit)
