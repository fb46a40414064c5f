"""Channels consumers as daphne would run them, by the events of API Gateway."""

from __future__ import annotations

import datetime as dt
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import path

from serverless.websockets import names
from serverless.websockets.errors import EventError, OptionError
from serverless.websockets.gateway import Gateway
from tests.lambda_events import recorded
from tests.websocket_api import Api, connect_event, event, running_api

pytestmark = pytest.mark.usefixtures("old_connections_may_be_closed")


class Room(AsyncJsonWebsocketConsumer):
    """Counts what it is told, and tells the room."""

    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.count = 0
        await self.channel_layer.group_add(f"room.{self.room}", self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome", "room": self.room})

    async def receive_json(self, content):
        if content.get("do") == "tell":
            await self.channel_layer.group_send(f"room.{self.room}", {"type": "room.told", "text": content["text"]})
        elif content.get("do") == "join":
            await self.channel_layer.group_add(content["group"], self.channel_name)
        elif content.get("do") == "leave":
            await self.channel_layer.group_discard(f"room.{self.room}", self.channel_name)
        elif content.get("do") == "close":
            await self.close(4001)
        elif content.get("do") == "fail":
            self.count = 1000
            raise RuntimeError("it was told to")
        elif content.get("do") == "large":
            await self.send_json({"text": "x" * content["size"]})
        else:
            self.count += 1
            await self.send_json({"type": "counted", "room": self.room, "count": self.count})

    async def room_told(self, message):
        await self.send_json({"type": "told", "text": message["text"], "room": self.room})

    async def disconnect(self, code):
        await self.channel_layer.group_send(f"room.{self.room}", {"type": "room.told", "text": f"left {code}"})


class Threads(WebsocketConsumer):
    """Tells its group, in threads, all that it was told."""

    groups = ["threads"]

    def connect(self):
        self.lines = []
        self.accept(subprotocol="v2" if "v2" in self.scope["subprotocols"] else None)

    def receive(self, text_data=None, bytes_data=None):
        self.lines.append(text_data)
        async_to_sync(self.channel_layer.group_send)("threads", {"type": "lines.said", "lines": self.lines})

    def lines_said(self, message):
        self.send(json.dumps(message["lines"]))


class Refusing(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("refused", self.channel_name)
        await self.close()


class Undecided(AsyncWebsocketConsumer):
    async def connect(self): ...


class ClosingAtOnce(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        await self.close()


class Failing(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("failed", self.channel_name)
        raise RuntimeError("connect() fails")


class Talkative(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.accept()
        for number in range(int(self.scope["url_route"]["kwargs"]["count"])):
            await self.send_json(number)

    async def receive_json(self, content):
        await self.send_json({"answer": content})


class LargeWelcome(Talkative):
    async def connect(self):
        await self.accept()
        for text in ("x" * 131_073, "small"):
            await self.send_json(text)


class Keeping(AsyncJsonWebsocketConsumer):
    """Sets attributes of all kinds, and tells which it has."""

    release = "old"

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.made_anew = [self.release]
        self.grows = []
        self.turns = []
        self.client = object()

    async def connect(self):
        await self.accept()

    async def receive_json(self, content):
        if content == "set":
            self.text, self.number, self.nested = "ä", 3, {"a": [1, 2.5, None, True]}
            self.turns = {1}
            self.tuple, self.set, self.moment = (1, 2), {1}, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        elif content == "grow":
            self.grows.append(1)
        elif content == "bloat":
            self.text = "x" * 70_000
        known = {name: value for name, value in self.__dict__.items() if isinstance(value, str | int | dict | list)}
        await self.send_json({name: known[name] for name in known if name not in {"scope", "channel_name"}})


class Scoped(AsyncJsonWebsocketConsumer):
    """Tells its scope."""

    async def connect(self):
        await self.accept(self.scope["subprotocols"][0] if self.scope["subprotocols"] else None)
        await self.tell()

    async def receive_json(self, content):
        await self.tell()

    async def tell(self):
        scope = dict(self.scope)
        user, session = scope.pop("user", None), scope.pop("session", None)
        scope.pop("url_route"), scope.pop("path_remaining")
        shown = {
            "user": getattr(user, "pk", None),
            "name": (await user.aload()).get_username() if hasattr(user, "aload") else None,
            "has_session": session is not None,
        }
        text = json.dumps(scope | shown, default=lambda value: value.decode("latin-1"))
        await self.send(text)


class Raw(AsyncJsonWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send_json({"text": text_data, "bytes": None if bytes_data is None else bytes_data.hex()})
        if text_data == "binary":
            await self.send(bytes_data=b"\0")
        if text_data == "accept":
            await self.accept()


class Tokens:
    """Middleware that adds claims to the scope, once a connection."""

    seen = 0

    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        if "claims" not in scope:
            type(self).seen += 1
            scope = {**scope, "claims": {"token": scope["query_string"].decode()}, "not_json": object}
        await self.inner({**scope, "not_json": None}, receive, send)


async def bare(scope, receive, send):
    """An ASGI application that is no consumer of Channels."""
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": json.dumps(message["text"])})
        else:
            return


websockets = URLRouter(
    [
        path("ws/rooms/<room>/", Room.as_asgi()),
        path("ws/threads/", Threads.as_asgi()),
        path("ws/refusing/", Refusing.as_asgi()),
        path("ws/undecided/", Undecided.as_asgi()),
        path("ws/closing/", ClosingAtOnce.as_asgi()),
        path("ws/failing/", Failing.as_asgi()),
        path("ws/talkative/<int:count>/", Talkative.as_asgi()),
        path("ws/large-welcome/", LargeWelcome.as_asgi()),
        path("ws/keeping/", Keeping.as_asgi()),
        path("ws/scoped/", Scoped.as_asgi()),
        path("ws/signed-in/", AuthMiddlewareStack(Scoped.as_asgi())),
        path("ws/tokens/", Tokens(Scoped.as_asgi())),
        path("ws/ours-only/", OriginValidator(Raw.as_asgi(), ["https://ours.example"])),
        path("ws/raw/", Raw.as_asgi()),
        path("ws/bare/", bare),
    ]
)
application = ProtocolTypeRouter({"websocket": websockets})


@pytest.fixture
def api(cloud, settings):
    with running_api(settings, f"{__name__}.application") as made:
        yield made


def by_events(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that awaits; each runs in an event loop of its own."""

    @functools.wraps(scenario)
    def run(**fixtures: Any) -> None:
        async_to_sync(scenario)(**fixtures)

    return run


# The life of a connection


@by_events
async def test_a_consumer_connects_answers_and_leaves(api: Api):
    socket = api.socket()
    assert await socket.connect("/ws/rooms/red/") == {"statusCode": 200}
    assert socket.received() == []
    assert await socket.say({"do": "count"}) == {"statusCode": 200}
    assert await socket.say({"do": "count"}) == {"statusCode": 200}
    assert socket.received() == [
        {"type": "welcome", "room": "red"},
        {"type": "counted", "room": "red", "count": 1},
        {"type": "counted", "room": "red", "count": 2},
    ]
    assert await socket.leave() == {"statusCode": 200}
    assert api.rows() == set()


def test_the_function_is_called_by_lambda_without_an_event_loop(api: Api):
    assert Gateway.from_settings()(connect_event("L0SM9cOFvHcCIhw=", "/ws/rooms/red/"), None) == {"statusCode": 200}
    assert api.gateway(recorded("websocket_message")) == {"statusCode": 200}
    assert api.connections.texts("L0SM9cOFvHcCIhw=")[-1] == '{"type": "counted", "room": "red", "count": 1}'
    assert api.gateway(recorded("websocket_disconnect")) == {"statusCode": 200}
    assert api.rows() == set()


@by_events
async def test_members_of_a_group_are_told_in_their_own_consumers(api: Api):
    red, also_red, blue = [await api.connected(f"/ws/rooms/{room}/") for room in ("red", "red", "blue")]
    assert (await red.say({"do": "tell", "text": "hello"}))["statusCode"] == 200
    told = {"type": "told", "text": "hello", "room": "red"}
    assert red.received() == [{"type": "welcome", "room": "red"}, told]
    assert also_red.received() == [told]
    assert blue.received() == []
    await red.say({"do": "leave"})
    await also_red.say({"do": "tell", "text": "again"})
    assert also_red.received()[-1] == told | {"text": "again"}
    assert red.received()[-1] == told
    # A second group, joined by a later message.
    await blue.say({"do": "join", "group": "room.red"})
    await also_red.leave(1000)
    assert blue.received()[-1] == {"type": "told", "text": "left 1000", "room": "blue"}


def test_consumers_in_threads_send_to_their_own_group(api: Api):
    first, second = api.socket(), api.socket()
    gateway = api.gateway
    answer = gateway(connect_event(first.id, "/ws/threads/", headers={"Sec-WebSocket-Protocol": "v1, v2"}))
    assert answer == {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "v2"}}
    assert gateway(connect_event(second.id, "/ws/threads/")) == {"statusCode": 200}
    assert gateway(event("message", first.id, body="one")) == {"statusCode": 200}
    assert gateway(event("message", first.id, body="two")) == {"statusCode": 200}
    assert first.received() == second.received() == [["one"], ["one", "two"]]
    gateway(event("disconnect", first.id))
    gateway(event("message", second.id, body="three"))
    assert second.received()[-1] == ["three"]
    assert len(first.received()) == 2
    gateway(event("disconnect", second.id))
    assert api.rows() == set()


@pytest.mark.parametrize("kind", ["refusing", "undecided", "closing"])
@by_events
async def test_a_connection_that_is_not_accepted_leaves_nothing(api: Api, kind: str):
    assert await api.socket().connect(f"/ws/{kind}/") == {"statusCode": 403}
    assert api.rows() == set()
    assert api.connections.posts == api.connections.closed == []


@by_events
async def test_a_consumer_that_fails_to_connect_is_logged_and_leaves_nothing(api: Api, caplog):
    assert await api.socket().connect("/ws/failing/") == {"statusCode": 500}
    assert "connect() fails" in caplog.text
    assert "sessionid" not in caplog.text
    assert api.rows() == set()


@pytest.mark.parametrize("wrong", ["/ws/nothing/", "/", "/ws/rooms/", "/ws/rooms/red/more/"])
@by_events
async def test_a_path_without_a_route_is_refused(api: Api, wrong: str, caplog):
    assert await api.socket().connect(wrong) == {"statusCode": 404}
    assert f"no route for {wrong!r}" in caplog.text
    assert "Traceback" not in caplog.text
    assert api.rows() == set()


@pytest.mark.parametrize("paths", [["ws/raw/"], [""], ["/ws/raw/", "/ws/rooms/red/"]])
@by_events
async def test_a_path_that_is_none_is_refused_with_the_reason(api: Api, paths: list[str], caplog):
    made = event("connect", "A=", multiValueQueryStringParameters={"path": paths})
    assert await api.gateway.handle(made) == {"statusCode": 400}
    assert 'must be given once and begin with "/"' in caplog.text
    assert api.rows() == set()


@by_events
async def test_a_consumer_closes_its_socket(api: Api):
    socket = await api.connected("/ws/rooms/red/")
    assert await socket.say({"do": "close"}) == {"statusCode": 200}
    assert api.connections.closed == [socket.id]
    # API Gateway tells of the end by an event, as of any other.
    await socket.leave()
    assert api.rows() == set()


@by_events
async def test_a_message_of_a_connection_that_nobody_knows_closes_it(api: Api):
    socket = await api.connected("/ws/rooms/red/")
    await api.layer.flush()
    assert await socket.say({"do": "count"}) == {"statusCode": 410}
    assert api.connections.closed == [socket.id]
    assert await socket.leave() == {"statusCode": 200}


@by_events
async def test_a_lost_disconnect_is_made_up_for_when_a_push_finds_the_socket_gone(cloud, settings):
    with running_api(settings, f"{__name__}.application", grace_seconds=-1) as api:
        gone, here = await api.connected("/ws/rooms/red/"), await api.connected("/ws/rooms/red/")
        api.connections.answers[gone.id] = 410
        await here.say({"do": "tell", "text": "hello"})
        assert here.received()[-1]["text"] == "hello"
        assert not [row for row in api.rows() if gone.id in "".join(row)]
        assert [row for row in api.rows() if here.id in "".join(row)]


# What cannot be sent while the connection is made


@by_events
async def test_what_connect_sends_waits_for_the_first_message_and_is_sent_once(api: Api):
    socket = await api.connected("/ws/talkative/3/")
    assert socket.received() == []
    await socket.say("sync")
    await socket.say("sync")
    assert socket.received() == [0, 1, 2, {"answer": "sync"}, {"answer": "sync"}]


@by_events
async def test_more_than_can_wait_is_refused_and_says_what_to_do(api: Api, caplog):
    assert await api.socket().connect("/ws/talkative/10/") == {"statusCode": 200}
    assert await api.socket().connect("/ws/talkative/11/") == {"statusCode": 500}
    assert "connect() sends 11 messages" in caplog.text
    assert "Let the client ask when it has connected" in caplog.text


@by_events
async def test_a_welcome_that_cannot_be_sent_keeps_no_message_from_its_handler(api: Api, caplog):
    socket = await api.connected("/ws/large-welcome/")
    assert await socket.say("sync") == {"statusCode": 200}
    assert socket.received() == ["small", {"answer": "sync"}]
    assert "what connect() sent was not delivered" in caplog.text


# What a consumer keeps


@by_events
async def test_attributes_that_json_gives_back_are_there_at_the_next_event(api: Api, caplog):
    socket = await api.connected("/ws/keeping/")
    await socket.say("set")
    with caplog.at_level(logging.WARNING):
        await socket.say("tell")
    told = socket.received()[-1]
    assert (told["text"], told["number"], told["nested"]) == ("ä", 3, {"a": [1, 2.5, None, True]})
    assert {"tuple", "set", "moment"}.isdisjoint(told)
    # An object that __init__ makes is there each time.
    assert "attribute client" not in caplog.text
    for name in ("tuple", "set", "moment", "turns"):
        assert f"attribute {name} is a " in caplog.text
    await socket.say("set")
    assert caplog.text.count("attribute moment is a datetime") == 1


@by_events
async def test_what_init_makes_anew_is_not_kept_unless_it_was_changed(api: Api, monkeypatch):
    socket = await api.connected("/ws/keeping/")
    await socket.say("grow")
    monkeypatch.setattr(Keeping, "release", "new")
    await socket.say("grow")
    told = socket.received()[-1]
    assert told["made_anew"] == ["new"]
    assert told["grows"] == [1, 1]


@by_events
async def test_too_much_state_is_an_error_and_what_was_kept_stays(api: Api, caplog):
    socket = await api.connected("/ws/keeping/")
    await socket.say("set")
    assert await socket.say("bloat") == {"statusCode": 500}
    assert "Keep keys in self and read the rest from the database" in caplog.text
    await socket.say("tell")
    assert socket.received()[-1]["text"] == "ä"


@by_events
async def test_a_handler_that_fails_is_logged_and_keeps_nothing_and_the_connection_goes_on(api: Api, caplog):
    socket = await api.connected("/ws/rooms/red/")
    await socket.say({"do": "count"})
    assert await socket.say({"do": "fail"}) == {"statusCode": 500}
    assert "it was told to" in caplog.text
    assert await socket.say({"do": "count"}) == {"statusCode": 200}
    assert socket.received()[-1]["count"] == 2


@by_events
async def test_the_same_consumer_in_a_process_of_its_own_is_left_as_channels_made_it(api: Api, settings):
    await api.connected("/ws/rooms/red/")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    scope = {"type": "websocket", "path": "/ws/rooms/red/", "headers": [], "query_string": b"", "subprotocols": []}
    server = ApplicationCommunicator(application, scope)
    await server.send_input({"type": "websocket.connect"})
    assert (await server.receive_output(5))["type"] == "websocket.accept"
    assert json.loads((await server.receive_output(5))["text"])["type"] == "welcome"
    for count in (1, 2):
        await server.send_input({"type": "websocket.receive", "text": '{"do": "count"}'})
        assert json.loads((await server.receive_output(5))["text"])["count"] == count
    await server.send_input({"type": "websocket.disconnect", "code": 1000})
    await server.wait(5)


# The scope


@by_events
async def test_the_scope_is_what_a_server_would_give_and_later_events_have_what_may_be_kept_of_it(api: Api):
    socket = api.socket()
    headers = {"Sec-WebSocket-Protocol": "v1, v2", "X-Name": "é"}
    await socket.connect("/ws/scoped/", query={"token": "a b&c", "empty": ""}, headers=headers)
    await socket.say("sync")
    first, later = socket.received()
    assert first["path"] == first["raw_path"] == "/ws/scoped/"
    assert first["query_string"] == "token=a+b%26c&empty="
    assert first["subprotocols"] == ["v1", "v2"]
    assert first["client"] == ["203.0.113.7", 0]
    assert first["server"] == ["a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", 443]
    assert (first["type"], first["scheme"], first["http_version"]) == ("websocket", "wss", "1.1")
    assert ["cookie", "sessionid=4k1y2x; csrftoken=abc"] in first["headers"]
    assert ["x-name", "é"] in first["headers"]
    assert first["extensions"] == {"aws.websocket": {"connection_id": socket.id, "is_resumed": False}}
    same = {"path", "raw_path", "client", "server", "type", "scheme", "http_version", "root_path", "asgi"}
    assert {name: later[name] for name in same} == {name: first[name] for name in same}
    assert later["subprotocols"] == ["v1"]
    assert later["query_string"] == ""
    assert {name for name, _ in later["headers"]} == {"accept-language", "host", "origin", "user-agent"}
    assert later["extensions"]["aws.websocket"]["is_resumed"] is True


@by_events
async def test_cookies_and_tokens_are_not_written_down(api: Api):
    socket = api.socket()
    await socket.connect("/ws/rooms/red/", query={"token": "sEcReT"}, headers={"Authorization": "Bearer sEcReT"})
    stored = str(api.layer.table.client().scan(TableName=api.layer.table.name)["Items"])
    assert "/ws/rooms/red/" in stored
    for secret in ("sEcReT", "4k1y2x", "csrftoken"):
        assert secret not in stored


@pytest.mark.django_db(transaction=True)
def test_who_signed_in_is_known_at_later_events_though_the_cookie_is_not(api: Api):
    user = get_user_model().objects.create_user("ada")
    client = Client()
    client.force_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}"
    socket = api.socket()
    api.gateway(connect_event(socket.id, "/ws/signed-in/", headers={"Cookie": cookie}))
    api.gateway(event("message", socket.id, body='"sync"'))
    first, later = socket.received()
    assert (first["user"], first["has_session"]) == (user.pk, True)
    assert (later["user"], later["name"]) == (user.pk, "ada")
    stranger = api.socket()
    api.gateway(connect_event(stranger.id, "/ws/signed-in/"))
    api.gateway(event("message", stranger.id, body='"sync"'))
    assert [told["user"] for told in stranger.received()] == [None, None]


@by_events
async def test_what_middleware_adds_once_is_in_the_scope_of_later_events(api: Api, monkeypatch):
    monkeypatch.setattr(Tokens, "seen", 0)
    socket = api.socket()
    await socket.connect("/ws/tokens/", query={"token": "abc"})
    await socket.say("sync")
    assert [told["claims"] for told in socket.received()] == [{"token": "token=abc"}] * 2
    assert Tokens.seen == 1


@by_events
async def test_middleware_that_denies_the_origin_denies_it(api: Api):
    assert await api.socket().connect("/ws/ours-only/") == {"statusCode": 403}
    socket = api.socket()
    assert await socket.connect("/ws/ours-only/", headers={"Origin": "https://ours.example"}) == {"statusCode": 200}
    # The origin is among what is kept, or the next event would close the socket.
    await socket.say_text("hello")
    assert socket.received() == [{"text": "hello", "bytes": None}]
    assert api.connections.closed == []


# What API Gateway cannot do


@by_events
async def test_bytes_that_come_are_handed_on_and_bytes_that_go_are_refused_in_plain_words(api: Api, caplog):
    socket = await api.connected("/ws/raw/")
    made = event("message", socket.id, body="AAEC/w==", isBase64Encoded=True)
    assert await api.gateway.handle(made) == {"statusCode": 200}
    assert socket.received() == [{"text": None, "bytes": "000102ff"}]
    assert await socket.say_text("binary") == {"statusCode": 500}
    assert "API Gateway sends text only" in caplog.text
    assert await socket.say_text("accept") == {"statusCode": 500}
    assert "Accept or close in connect()" in caplog.text
    assert await api.gateway.handle(made | {"body": "no base64"}) == {"statusCode": 400}
    assert await socket.say_text("still here") == {"statusCode": 200}


@by_events
async def test_a_message_that_is_too_large_is_an_error_that_says_so(api: Api, caplog):
    socket = await api.connected("/ws/rooms/red/")
    frame = len(json.dumps({"text": ""}))
    assert await socket.say({"do": "large", "size": 128 * 1024 - frame}) == {"statusCode": 200}
    assert await socket.say({"do": "large", "size": 128 * 1024 - frame + 1}) == {"statusCode": 500}
    assert "131073 bytes is larger than the 131072" in caplog.text


@by_events
async def test_a_slow_client_is_answered_429(api: Api):
    socket = await api.connected("/ws/raw/")
    api.connections.answers[socket.id] = 429
    assert await socket.say_text("hello") == {"statusCode": 429}


@by_events
async def test_an_application_without_channels_is_served_as_well(api: Api):
    socket = await api.connected("/ws/bare/")
    assert await socket.say_text("hello") == {"statusCode": 200}
    assert socket.received() == ["hello"]
    assert await socket.leave() == {"statusCode": 200}


# Events


@pytest.mark.parametrize("name", ["api_gateway_v1", "api_gateway_v2", "sqs", "eventbridge_scheduler"])
def test_events_of_others_raise(api: Api, name: str):
    with pytest.raises(EventError, match="Point only the routes"):
        api.gateway(recorded(name))


def test_a_layer_of_another_kind_is_refused(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with pytest.raises(OptionError, match="is a InMemoryChannelLayer: events of API Gateway need"):
        Gateway.from_settings()


@by_events
async def test_the_table_out_of_reach_is_an_error_of_the_event_and_no_more(api: Api, monkeypatch, caplog):
    socket = await api.connected("/ws/raw/")
    monkeypatch.setattr(api.layer.table, "name", "no-such-table")
    assert await socket.say_text("hello") == {"statusCode": 500}
    assert await api.socket().connect("/ws/raw/") == {"statusCode": 500}
    monkeypatch.undo()
    assert await socket.say_text("hello") == {"statusCode": 200}


@by_events
async def test_a_message_sent_by_its_channels_name_arrives(api: Api):
    socket = await api.connected("/ws/rooms/red/")
    await api.layer.send(names.channel_name(socket.id), {"type": "room.told", "text": "you alone"})
    assert socket.received() == [{"type": "told", "text": "you alone", "room": "red"}]
